"""The host side of one network on the CPU: memory, workers, and plain calls around the compiled walk."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..epochs import ADAGRAD_START, EpochPlan, EpochSteps, UpdateRule, loss_constants, loss_divisor
from ..network import Loss, Network, Optimizer, aligned_zeros, round_up, weight_of
from . import walk
from .dense import GRADIENT_ROWS, PACKED_COLUMNS
from .simd import TILE_ROWS
from .walk import Batch, Data, LossRecord, Model, Plan, Rows, Rule, Targets, Workspace
from .workers import WORTHWHILE_FLOP, Workers, choose_n_workers

FLOP_A_CALL = 4e9  # a kernel returns to Python about every 0.1 s, so that Ctrl-C is heard
UPDATE_FLOP = 50.0  # what updating one parameter is worth: an update waits for memory
FULL_ROWS = 1024  # rows at a time in `Session.loss_and_gradient`
PIECES = 64  # elements of a worker's scratch: two vectors of the widest


def as_rows(X) -> Rows:
    """`X`, a 2-D array or a CSR matrix (sorted, no repeats), as kernels read it; nothing is copied.

    Parameters
    ----------
    X : ndarray (n_samples, n_features) or CSR matrix or array
        Any strides; an array whose strides are no multiples of its item size is copied.
    """
    if hasattr(X, "indptr"):
        kind = np.int32 if X.indices.dtype == np.int32 and X.indptr.dtype == np.int32 else np.int64
        indices, indptr = (_read_only(np.ascontiguousarray(a, kind)) for a in (X.indices, X.indptr))
        return Rows(_read_only(np.ascontiguousarray(X.data)), indices, indptr, 0, 0, 0, *X.shape)
    empty = _read_only(np.empty(0, np.int32))
    if X.flags.c_contiguous and X.flags.aligned:
        return Rows(_read_only(X.reshape(-1)), empty, empty, 0, X.shape[1], 1, *X.shape)
    size = X.itemsize
    if any(stride % size for stride in X.strides) or not X.flags.aligned:
        X = np.ascontiguousarray(X)
    # a flat view over the memory that X lies in, so that one compiled kernel reads every layout
    reach = [(n - 1) * stride // size for n, stride in zip(X.shape, X.strides, strict=True)]
    lowest, highest = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    if not X.size:
        lowest = highest = 0
    corner = X
    for axis, r in enumerate(reach):
        if r < 0:
            corner = np.flip(corner, axis)
    values = as_strided(corner, (highest - lowest + 1,), (size,), writeable=False) if X.size else _read_only(X.ravel())
    row_stride, column_stride = (stride // size for stride in X.strides)
    return Rows(values, empty, empty, -lowest, row_stride, column_stride, *X.shape)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def as_targets(labels, values, weights, n_outputs: int, dtype, label_starts=None) -> Targets:
    """Canonical arrays: `labels` int32 or None, `values` of `dtype` or None, `weights` of `dtype`; see `Targets`."""
    if labels is None:
        labels = np.empty(0, np.int32)
    if values is None:
        values = np.empty((0, 0), dtype)
    if label_starts is None:
        label_starts = np.empty(0, np.int64)
    return Targets(
        np.ascontiguousarray(labels, np.int32),
        np.ascontiguousarray(label_starts, np.int64),
        np.ascontiguousarray(values, dtype),
        np.ascontiguousarray(weights, dtype),
        int(n_outputs),
    )


class Session:
    """One network's parameters in use: training, gradients, losses, predictions.

    Parameters
    ----------
    network : Network
    params : float32 or float64 (n_params,)
        Updated in place by training.
    loss : Loss
    loss_parameter : float
        Huber's delta or the quantile.
    label_smoothing : float
    n_jobs : int or None
        See `choose_n_workers`.
    """

    sums_gradients = False  # over a batch, instead of taking their mean
    most_useful_workers = np.inf

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
        self.network = network
        self.params = params
        self.loss = Loss(loss)
        self.loss_parameter = float(loss_parameter)
        self.label_smoothing = float(label_smoothing)
        self.n_jobs = n_jobs
        self.n_outputs = int(network.layers["n_out"][-1])
        self._flop_a_row = float(np.sum(2.0 * network.layers["n_in"] * network.layers["n_out"]))
        self._none = np.empty(0, params.dtype)

    # ---------------------------------------------------------------- training

    def prepare(self, update: UpdateRule) -> None:
        """Sets the rule of the steps, with moments of zero, and makes room for its batches."""
        self.update = update
        self.moments = aligned_zeros(2 * self.network.n_params, self.params.dtype)
        if update.is_adagrad:
            self.moments[: self.network.n_params] = ADAGRAD_START
        flop = 3.0 * self._flop_a_row * update.batch_size
        self.n_workers = choose_n_workers(self.n_jobs, min(flop, self.most_useful_workers * WORTHWHILE_FLOP))
        self._grads = aligned_zeros(self.network.n_params, self.params.dtype)
        self._work = self._workspace(update.batch_size, self.n_workers)
        self._rule = self._make_rule(
            optimizer=int(update.optimizer),
            momentum=float(update.momentum),
            nesterov=bool(update.nesterov),
            gap_1=1.0 - float(update.beta_1),
            gap_2=1.0 - float(update.beta_2),
            epsilon=float(update.epsilon),
            max_grad_norm=float(update.max_grad_norm),
            seed=np.uint64(update.seed),
        )

    def train_epoch(self, rows: Rows, targets: Targets, plan: EpochPlan) -> float:
        """One pass over the rows of a plan; returns their mean loss, see `EpochSteps.mean_loss`.

        Raises
        ------
        KeyboardInterrupt
            Within about 0.1 s; the parameters are those after the last whole batch.
        """
        steps, batch_size = EpochSteps(self.update, plan, targets.weights, self.sums_gradients), self.update.batch_size
        n, n_steps = steps.order.size, steps.starts.size
        record = self._record(n, n_steps)
        flop_a_step = 3.0 * self._flop_a_row * batch_size + UPDATE_FLOP * self.network.n_params
        chunk = max(1, int(FLOP_A_CALL / flop_a_step))
        sizes = steps.rates, steps.l2, steps.decays, steps.scales
        with Workers(self.n_workers) as workers:
            for first in range(0, n_steps, chunk):
                last = min(first + chunk, n_steps)
                self._run_steps(
                    workers, rows, targets, Plan(steps.order, *sizes, batch_size, first, last, steps.step0), record
                )
        with np.errstate(all="ignore"):  # where training diverges, the trainer says so
            sums = steps.sums(self._row_losses(record, targets, steps.order))
        return steps.mean_loss(sums, record.penalties)

    def _run_steps(self, workers: Workers, rows, targets: Targets, plan: Plan, record: LossRecord) -> None:
        """The compiled epoch."""
        model = self._model(self._grads, self.moments)
        workers.run(walk.train_epoch, model, Data(rows, targets), self._work, plan, self._rule, record)

    def _model(self, grads: np.ndarray, moments: np.ndarray) -> Model:
        return Model(self.network.layers, self.params, grads, moments)

    def loss_and_gradient(self, rows: Rows, targets: Targets, alpha: float) -> tuple[float, np.ndarray]:
        """Weighted mean loss over all rows plus ``alpha / 2 |W|**2 / sum of weights``, and its gradient (n_params,)."""
        n = rows.n_rows
        weight_sum = float(targets.weights.sum(dtype=np.float64))
        scale = 1.0 / weight_sum if weight_sum > 0 else 0.0
        if not hasattr(self, "_full_work"):
            block = min(n, FULL_ROWS)
            self._full_workers = choose_n_workers(self.n_jobs, 3.0 * self._flop_a_row * block)
            self._full_work = self._workspace(block, self._full_workers)
        grads = aligned_zeros(self.network.n_params, self.params.dtype)
        record, order = self._record(n), np.arange(n)
        model = self._model(grads, self._none)
        with Workers(self._full_workers) as workers:
            everything, data = Batch(order, scale), Data(rows, targets)
            workers.run(walk.full_gradient, model, data, self._full_work, everything, self._make_rule(), record)
        loss = float(np.sum(self._row_losses(record, targets, order) * targets.weights, dtype=np.float64)) * scale
        for row in self.network.layers:
            weight = weight_of(self.params, row)
            loss += 0.5 * alpha * scale * float(np.vdot(weight, weight))
            weight_of(grads, row)[:] += (alpha * scale) * weight
        return loss, grads

    def largest_weight(self) -> float:
        """Largest absolute value of the parameters, not finite where one of them is not."""
        return max(float(self.params.max()), -float(self.params.min()))  # NaN if there is one

    def snapshot(self, into=None):
        """What `restore` brings the parameters back to; `into` is an earlier one, whose memory is used again."""
        into = np.empty_like(self.params) if into is None else into
        into[:] = self.params
        return into

    def restore(self, snapshot) -> None:
        """The parameters as they were at a `snapshot`."""
        self.params[:] = snapshot

    # ---------------------------------------------------------------- without training

    def evaluate(self, rows: Rows, targets: Targets) -> float:
        """Weighted mean loss of the rows, without penalty and without dropout."""
        n = rows.n_rows
        record = self._record(n)
        n_workers = choose_n_workers(self.n_jobs, self._flop_a_row * n)
        model = self._model(self._none, self._none)
        with Workers(n_workers) as workers:
            work = self._predict_workspace(n, n_workers, with_slopes=True)
            orders = np.zeros((n_workers, walk.PREDICT_ROWS), np.int64)
            workers.run(walk.evaluate, model, Data(rows, targets), work, orders, self._make_rule(), record)
        losses = self._row_losses(record, targets, slice(None)).astype(np.float64)
        return float(np.average(losses, weights=targets.weights))

    def predict(self, rows: Rows, out: np.ndarray | None = None) -> np.ndarray:
        """Predictions (n_rows, n_outputs): softmax, logistic, exp or the output itself, by the loss."""
        n = rows.n_rows
        if out is None:
            out = np.empty((n, self.n_outputs), self.params.dtype)
        n_workers = choose_n_workers(self.n_jobs, self._flop_a_row * n)
        model = self._model(self._none, self._none)
        with Workers(n_workers) as workers:
            work = self._predict_workspace(n, n_workers, with_slopes=False)
            orders = np.zeros((n_workers, walk.PREDICT_ROWS), np.int64)
            workers.run(walk.predict, model, rows, work, orders, int(self.loss), out)
        return out

    # ---------------------------------------------------------------- memory

    def _workspace(self, n_rows: int, n_workers: int) -> Workspace:
        """Room for a batch that all workers share."""
        dtype, network = self.params.dtype, self.network
        capacity = round_up(n_rows)
        packed = min(capacity, GRADIENT_ROWS) * PACKED_COLUMNS
        n_blocks = int(np.sum(-(-network.layers["n_in"] // TILE_ROWS))) + network.layers.size
        return Workspace(
            inputs=aligned_zeros(capacity * int(network.layers["in_stride"][0]), dtype),
            input_slopes=self._none,
            outputs=aligned_zeros(capacity * network.output_width, dtype),
            slopes=aligned_zeros(capacity * network.output_width, dtype),
            none=self._none,
            transposed=aligned_zeros(network.transposed_size, dtype),
            pieces=np.zeros((n_workers, PIECES), dtype),
            packed=aligned_zeros(n_workers * packed, dtype).reshape(n_workers, packed),
            squares=np.zeros(n_blocks),
            capacity=capacity,
        )

    def _predict_workspace(self, n_rows: int, n_workers: int, with_slopes: bool) -> Workspace:
        """Room for PREDICT_ROWS rows (fewer if there are fewer) a worker."""
        dtype, network = self.params.dtype, self.network
        capacity = round_up(min(n_rows, walk.PREDICT_ROWS))

        def rows_of_workers(width: int) -> np.ndarray:
            return aligned_zeros(n_workers * capacity * width, dtype).reshape(n_workers, -1)

        return Workspace(
            inputs=rows_of_workers(int(network.layers["in_stride"][0])),
            input_slopes=self._none,
            outputs=rows_of_workers(network.output_width),
            slopes=rows_of_workers(network.output_width if with_slopes else 0),
            none=self._none,
            transposed=self._none,
            pieces=np.zeros((n_workers, PIECES), dtype),
            packed=np.zeros((0, 0), dtype),
            squares=np.zeros(0),
            capacity=capacity,
        )

    def _record(self, n_rows: int, n_steps: int = 0) -> LossRecord:
        dtype = self.params.dtype
        return LossRecord(np.ones(n_rows, dtype), np.zeros(n_rows, dtype), np.zeros(n_steps))

    def _make_rule(self, **changes) -> Rule:
        rule = Rule(
            loss=int(self.loss),
            loss_parameter=self.loss_parameter,
            label_smoothing=self.label_smoothing,
            optimizer=int(Optimizer.SGD),
            momentum=0.0,
            nesterov=False,
            gap_1=0.0,
            gap_2=0.0,
            epsilon=0.0,
            max_grad_norm=0.0,
            seed=np.uint64(0),
        )
        return rule._replace(**changes)

    def _row_losses(self, record: LossRecord, targets: Targets, order) -> np.ndarray:
        """Loss of each row; order picks the rows of `targets` that `record` is about."""
        losses = (np.log(record.sums) + record.gaps) / loss_divisor(self.loss, self.n_outputs)
        return losses + loss_constants(self.loss, targets, order)
