"""The host side of many small networks on the GPU: which can go together, what is uploaded, what is read back.

A module like `session`: a fit gets a `Session` from it. But such a session trains only as part of a `Team`, which takes
the epochs of all its networks to the GPU in one launch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from ..cpu.session import ADAGRAD_START, EpochResult, as_targets
from ..network import LayerKind, Loss, Network, Optimizer, aligned_zeros, round_up
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


class Steps(NamedTuple):
    """What an epoch of one network asks for."""

    order: np.ndarray  # int64 (n,): row numbers
    rates: np.ndarray  # float64 (n_batches,), as the following
    l2: np.ndarray
    decays: np.ndarray
    scales: np.ndarray
    first: int  # steps made before


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

    def prepare(
        self,
        optimizer: Optimizer,
        batch_size: int,
        *,
        momentum: float = 0.9,
        nesterov: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        alpha: float = 0.0,
        max_grad_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        """Sets the update rule, with moments of zero."""
        self.optimizer, self.batch_size, self.nesterov = Optimizer(optimizer), int(batch_size), bool(nesterov)
        self.momentum, self.beta_1, self.beta_2, self.epsilon = map(float, (momentum, beta_1, beta_2, epsilon))
        self.alpha, self.seed = float(alpha), int(seed)
        self.max_grad_norm = 0.0 if max_grad_norm is None else float(max_grad_norm)
        self.moments = aligned_zeros(2 * self.network.n_params, self.params.dtype)
        if self.optimizer == Optimizer.ADAGRAD:
            self.moments[: self.network.n_params] = ADAGRAD_START

    @property
    def kind(self) -> Kind:
        """What the kernel is compiled for."""
        return Kind(int(self.network.layers["activation"][0]), self.loss, self.optimizer, self.nesterov)

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

    def steps(self, targets, order: np.ndarray, rates, decays, step0: int) -> Steps:
        """The epoch that `nbnet.cuda.session.Session.train_epoch` would make."""
        weight_sums = np.add.reduceat(targets.weights[order].astype(np.float64), self._starts(order))
        means = np.divide(1.0, weight_sums, out=np.zeros_like(weight_sums), where=weight_sums > 0)
        steps = step0 + 1.0 + np.arange(means.size)
        rates = np.asarray(rates, np.float64)
        if self.optimizer in (Optimizer.ADAM, Optimizer.ADAMW):
            rates = rates * np.sqrt(1.0 - self.beta_2**steps) / (1.0 - self.beta_1**steps)
        alpha = 0.0 if self.optimizer == Optimizer.ADAMW else self.alpha
        return Steps(order, rates, alpha * means, decays, means, step0)

    def result(self, steps: Steps, targets, losses: np.ndarray, penalties: np.ndarray, largest: float) -> EpochResult:
        """What an epoch reports, from what it has left: see `small_nets.Report`."""
        self._largest_weight = largest
        starts = self._starts(steps.order)
        sizes = np.diff(starts, append=steps.order.size)
        with np.errstate(all="ignore"):  # where training diverges, the trainer says so
            if self.loss == Loss.SQUARED_ERROR:
                losses = losses / self.n_outputs
            elif self.loss == Loss.POISSON:
                values = targets.values[steps.order].astype(np.float64)
                constants = (xlogy(values, values) - values).sum(axis=1) * targets.weights[steps.order]
                losses = losses + np.add.reduceat(constants, starts)
            batch_losses = losses * steps.scales + 0.5 * steps.l2 * penalties
            return EpochResult(float(np.sum(batch_losses * sizes) / steps.order.size))

    def _starts(self, order: np.ndarray) -> np.ndarray:
        return np.arange(0, order.size, self.batch_size)

    @property
    def bytes(self) -> int:
        """What one such network takes on the GPU for itself, targets apart."""
        width = int(self.network.layers["in_stride"][0]) + self.network.output_width
        return self.params.itemsize * (4 * self.network.n_params + 2 * round_up(self.batch_size) * width)


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
        capacity = round_up(max(session.batch_size for session in sessions))
        n_batches = max(-(-size // session.batch_size) for session, size in zip(sessions, sizes, strict=True))
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
            return upload(np.array([getattr(session, name) for session in self.sessions], dtype))

        return Rules(
            each("batch_size", np.uint32),
            each("seed", np.uint64),
            upload(np.array([p * 4294967296.0 for p in dropouts]).astype(np.uint64)),
            upload(np.array([1.0 / (1.0 - p) for p in dropouts], self._dtype)),
            each("momentum"),
            upload(np.array([1.0 - session.beta_1 for session in self.sessions], self._dtype)),
            upload(np.array([1.0 - session.beta_2 for session in self.sessions], self._dtype)),
            each("epsilon"),
            each("max_grad_norm"),
            each("loss_parameter"),
            each("label_smoothing"),
        )

    def train_epoch(self, epochs: dict[int, Steps]) -> dict[int, EpochResult]:
        """An epoch of each network that is named by its number."""
        numbers = list(epochs)
        self._active[: len(numbers)] = numbers
        for number, steps in epochs.items():
            n, n_batches = steps.order.size, steps.rates.size
            self._order[number, :n], self._sizes[number], self._first_steps[number] = steps.order, n, steps.first
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
            number: self.sessions[number].result(
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
