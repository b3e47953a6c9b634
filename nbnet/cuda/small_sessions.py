"""The host side of many small networks on the GPU: which can go together, what is uploaded, what is read back.

A module like `session`: a fit gets a `Session` from it. But such a session trains only as part of a `Team`, which takes
the epochs of all its networks to the GPU in one launch.
"""

from __future__ import annotations

import numpy as np

from ..cpu.session import as_targets
from ..epochs import ADAGRAD_START, EpochPlan, EpochSteps, UpdateRule, loss_constants, loss_divisor
from ..network import LayerKind, Loss, Network, aligned_zeros, round_up
from .launch import Queue, check_size, empty, upload, zeros
from .small_nets import Epoch, Kind, Nets, Report, Rules, Table, shape_of, train_epoch
from .walk import Rows

__all__ = ["LARGEST_NETWORK", "Session", "Team", "as_rows", "as_targets", "can_train_on"]

LARGEST_NETWORK = 2**16  # parameters; a block of threads is slow with more
BYTES = 2**30  # of a team on the GPU, beside X


def as_rows(X) -> np.ndarray:
    """X, dense and on the host: a team uploads it once."""
    return X


def can_train_on(rows) -> bool:
    """Whether a team can read X as `nbnet.cuda.session.as_rows` has left it: dense, and on the GPU as a whole."""
    return isinstance(rows, Rows) and rows.indptr.size == 0


class Session:
    """One network of a team; as `nbnet.cuda.session.Session`, but that it cannot train by itself.

    Parameters
    ----------
    network, params, loss, loss_parameter, label_smoothing, n_jobs
        As there.
    """

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        loss: Loss,
        *,
        loss_parameter: float = 0.0,
        label_smoothing: float = 0.0,
        n_jobs: int | None = None,
    ):
        self.network, self.params, self.loss = network, params, Loss(loss)
        self.loss_parameter, self.label_smoothing = float(loss_parameter), float(label_smoothing)
        self.n_outputs = int(network.layers["n_out"][-1])

    def prepare(self, update: UpdateRule) -> None:
        """Sets the rule of the steps, with moments of zero."""
        self.update = update
        self.moments = aligned_zeros(2 * self.network.n_params, self.params.dtype)
        if update.is_adagrad:
            self.moments[: self.network.n_params] = ADAGRAD_START

    @property
    def kind(self) -> Kind:
        """What the kernel is compiled for."""
        update = self.update
        return Kind(int(self.network.layers["activation"][0]), self.loss, update.optimizer, bool(update.nesterov))

    @property
    def key(self) -> tuple:
        """Sessions with equal keys can be a team."""
        layers = self.network.layers.copy()
        layers["dropout"] = 0.0  # each network has its own
        return layers.tobytes(), self.params.dtype.name, self.kind

    def why_alone(self) -> str:
        """What keeps this network from any team; empty: nothing."""
        layers = self.network.layers
        if self.network.n_params > LARGEST_NETWORK:
            return f"it has {self.network.n_params} parameters, more than {LARGEST_NETWORK}"
        if (layers["kind"] != LayerKind.DENSE).any() or len(set(layers["activation"][:-1])) > 1:
            return "its hidden layers have several activations"
        return ""

    def largest_weight(self) -> float:
        """Largest absolute value of the parameters after an epoch."""
        return self._largest_weight

    def steps(self, targets, plan: EpochPlan) -> EpochSteps:
        """The epoch that `nbnet.cuda.session.Session.train_epoch` would make."""
        return EpochSteps(self.update, plan, targets.weights)

    def mean_loss(self, steps: EpochSteps, targets, sums: np.ndarray, penalties: np.ndarray, largest: float) -> float:
        """The loss of an epoch, from what it has left: see `small_nets.Report`."""
        self._largest_weight = largest
        with np.errstate(all="ignore"):  # where training diverges, the trainer says so
            sums = sums / loss_divisor(self.loss, self.n_outputs)
            sums += steps.sums(loss_constants(self.loss, targets, steps.order))
        return steps.mean_loss(sums, penalties)

    @property
    def bytes(self) -> int:
        """What one such network takes on the GPU for itself, targets apart."""
        width = int(self.network.layers["in_stride"][0]) + self.network.output_width
        return self.params.itemsize * (4 * self.network.n_params + 2 * round_up(self.update.batch_size) * width)


class Team:
    """Networks of equal layers that train in the same launches, over rows of one X.

    Parameters
    ----------
    sessions : list of Session
        Prepared, of one `key`.
    rows : Rows
        X, dense, on the GPU.
    targets : list of Targets
        Of each network, over all rows of X.
    sizes : list of int
        Rows of an epoch of each network.
    """

    def __init__(self, sessions: list[Session], rows, targets: list, sizes: list[int]):
        first = sessions[0]
        self.sessions, self.targets = sessions, targets
        self._dtype = dtype = first.params.dtype
        n, n_rows = len(sessions), int(rows.n_rows)
        capacity = round_up(max(session.update.batch_size for session in sessions))
        n_batches = max(-(-size // session.update.batch_size) for session, size in zip(sessions, sizes, strict=True))
        self._shape = shape_of(first.network, capacity)
        for size in (2 * first.network.n_params, int(self._shape.room), n_rows * first.n_outputs, max(sizes)):
            check_size(n * size, f"a team of {n} networks")
        self._table = Table(
            rows.values,
            self._together([each.labels for each in targets], np.int32),
            self._together([each.values for each in targets], dtype),
            self._together([each.weights for each in targets], dtype),
            rows.n_rows,
            rows.n_columns,
        )
        self._nets = Nets(
            self._together([session.params for session in sessions], dtype),
            zeros(n * first.network.n_params, dtype),
            self._together([session.moments for session in sessions], dtype),
            zeros(n * int(self._shape.room), dtype),
            zeros(n * int(self._shape.room), dtype),
        )
        self._rules = self._make_rules()
        # what is uploaded before each epoch, on the host
        self._order, self._step_sizes = np.zeros((n, max(sizes)), np.uint32), np.zeros((4, n, n_batches), dtype)
        self._active, self._sizes, self._first_steps = np.zeros((3, n), np.uint32)
        self._of_epoch = self._active, self._order, self._sizes, self._first_steps, *self._step_sizes
        strides = np.uint32(max(sizes)), np.uint32(n_batches)
        self._epoch = Epoch(*(empty(part.size, part.dtype) for part in self._of_epoch), *strides)
        self._report = Report(empty(n * n_batches, dtype), empty(n * n_batches, dtype), empty(n, dtype))

    @staticmethod
    def _together(parts: list[np.ndarray], dtype):
        return upload(np.concatenate([part.reshape(-1) for part in parts]).astype(dtype, copy=False))

    def _make_rules(self) -> Rules:
        dropouts = [float(session.network.layers["dropout"][0]) for session in self.sessions]

        def each(name, dtype=self._dtype):
            return upload(np.array([getattr(session.update, name) for session in self.sessions], dtype))

        def gaps(name):
            return upload(np.array([1.0 - getattr(session.update, name) for session in self.sessions], self._dtype))

        def of_loss(name):
            return upload(np.array([getattr(session, name) for session in self.sessions], self._dtype))

        return Rules(
            each("batch_size", np.uint32),
            each("seed", np.uint64),
            upload(np.array([p * 4294967296.0 for p in dropouts]).astype(np.uint64)),
            upload(np.array([1.0 / (1.0 - p) for p in dropouts], self._dtype)),
            each("momentum"),
            gaps("beta_1"),
            gaps("beta_2"),
            each("epsilon"),
            each("max_grad_norm"),
            of_loss("loss_parameter"),
            of_loss("label_smoothing"),
        )

    def train_epoch(self, epochs: dict[int, EpochSteps]) -> dict[int, float]:
        """An epoch of each network that is named by its number; returns their mean losses."""
        numbers = list(epochs)
        self._active[: len(numbers)] = numbers
        for number, steps in epochs.items():
            n, n_batches = steps.order.size, steps.rates.size
            self._order[number, :n], self._sizes[number], self._first_steps[number] = steps.order, n, steps.step0
            for into, values in zip(self._step_sizes, (steps.rates, steps.l2, steps.decays, steps.scales), strict=True):
                into[number, :n_batches] = values
        for into, values in zip(self._epoch, self._of_epoch, strict=False):
            into.copy_to_device(values.reshape(-1))
        queue, kind = Queue(), self.sessions[0].kind
        parts = self._table, self._nets, self._shape, self._rules, self._epoch, self._report
        train_epoch(queue, *parts, kind, len(numbers))
        queue.run()
        reports = (part.copy_to_host().astype(np.float64).reshape(len(self.sessions), -1) for part in self._report)
        losses, penalties, largest = reports
        return {
            number: self.sessions[number].mean_loss(
                steps,
                self.targets[number],
                losses[number, : steps.rates.size],
                penalties[number, : steps.rates.size],
                float(largest[number, 0]),
            )
            for number, steps in epochs.items()
        }

    def download(self, number: int) -> None:
        """Bring the parameters and moments of a network back to its session."""
        session, n_params = self.sessions[number], self.sessions[0].network.n_params
        session.params[:] = self._nets.params[number * n_params : (number + 1) * n_params].copy_to_host()
        session.moments[:] = self._nets.moments[2 * number * n_params : 2 * (number + 1) * n_params].copy_to_host()
