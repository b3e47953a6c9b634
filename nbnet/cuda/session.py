"""The host side of one network on the GPU: what is uploaded when, the steps of an epoch, and what is read back."""

from __future__ import annotations

import numpy as np

from ..cpu import session as cpu_session
from ..epochs import ADAGRAD_START, EpochPlan, EpochSteps, UpdateRule, loss_constants, loss_divisor
from ..network import Loss, Network, Optimizer, round_up, weight_of
from . import walk
from .arrays import DeviceArray
from .dense import matrix
from .launch import Queue, check_size, empty, upload, zeros
from .losses import sum_of_batches
from .optimizers import flags_of_weights, largest_magnitude, n_largest, n_sums
from .product import Products
from .streaming import HostRows, Resident, Streamed, has_room, is_on_host, source_of
from .walk import Batch, Data, DeviceTargets, LossRule, Model, Plan, Rows, Rule, StepRule, Steps, Targets, Workspace

BLOCK_ROWS = 4096  # rows at a time outside training


def as_rows(X) -> Rows | HostRows:
    """`X`, a 2-D array or a CSR matrix (sorted, no repeats), on the GPU; a `DeviceArray` is not copied.

    Where the GPU has no room for it, X stays where it is, and comes in pieces when it is used.
    """
    if isinstance(X, DeviceArray):
        return X.as_rows()
    for n, what in zip(X.shape, ("a column of X", "a row of X"), strict=True):
        check_size(n, what)
    n_rows, n_columns = (np.uint32(n) for n in X.shape)
    if not has_room(X):
        return HostRows(X, n_rows, n_columns)
    if hasattr(X, "indptr"):
        kind = np.int32 if X.data.size < 2**31 else np.int64
        parts = (upload(np.asarray(a, t)) for a, t in ((X.data, X.data.dtype), (X.indices, np.int32), (X.indptr, kind)))
        return Rows(*parts, n_rows, n_columns)
    none = empty(0, np.int32)
    return Rows(upload(X), none, none, n_rows, n_columns)


def as_targets(labels, values, weights, n_outputs: int, dtype, label_starts=None) -> Targets:
    """Canonical arrays on the GPU: `labels` int32 or None, `values` of `dtype` or None, `weights` of `dtype`; see
    `nbnet.cpu.walk.Targets`."""
    host = cpu_session.as_targets(labels, values, weights, n_outputs, dtype, label_starts)
    check_size(host.values.size, "y")
    check_size(host.labels.size, "the list of all labels")
    starts = host.label_starts.astype(np.uint32)
    on_device = DeviceTargets(upload(host.labels), upload(starts), upload(host.values), upload(host.weights))
    return Targets(on_device, host, host.n_outputs)


class Mirror:
    """A vector that is on the host and on the GPU; the newer one is copied when the other is asked for."""

    def __init__(self, host: np.ndarray):
        self._host, self._device = host, None
        self._host_is_newer, self._device_is_newer = True, False

    def on_host(self) -> np.ndarray:
        """The host's array; whoever has it may write to it, so it is the newer one from now on."""
        if self._device_is_newer:
            self._receive()
        self._host_is_newer, self._device_is_newer = True, False
        return self._host

    def on_device(self):
        """The GPU's array, which always is the same one."""
        if self._device is None:
            self._device = upload(self._sent())
        elif self._host_is_newer:
            self._device.copy_to_device(self._sent())
        self._host_is_newer = False
        return self._device

    def changes_on_device(self):
        """The GPU's array, for a computation that writes to it."""
        self._device_is_newer = True
        return self.on_device()

    def _sent(self) -> np.ndarray:
        """The vector as the GPU is to have it."""
        return self._host

    def _receive(self) -> None:
        """The inverse, into the host's array."""
        self._device.copy_to_host(self._host)


def _new_plan(order, n: int, n_batches: int, kind) -> Plan:
    """Room for the steps over `n` rows, at the first of them."""
    position = upload(np.zeros(3, np.uint32))
    steps = Steps(*(empty(n_batches, kind) for _ in range(3)), position)
    scales, losses, penalties = empty(n_batches, kind), empty(n, kind), empty(n_batches, kind)
    return Plan(Batch(order, position), steps, scales, losses, penalties)


class _Epoch:
    """The launches of an epoch over some rows, put together once in a fit."""

    def __init__(
        self,
        train_step,
        model: Model,
        data: Data,
        n: int,
        batch_size: int,
        work: Workspace,
        rule: Rule,
        products: Products,
    ):
        kind = model.params.dtype.type
        n_batches = -(-n // batch_size)
        self._of = data, n
        self._report = empty(2 * n_batches + n_largest(model.params.size), kind)
        self._sums, penalties = self._report[:n_batches], self._report[n_batches : 2 * n_batches]
        self._source = source_of(data.rows, kind, n, batch_size)
        self._plan = _new_plan(empty(n, np.uint32), n, n_batches, kind)._replace(penalties=penalties)
        self._plan, data = self._source.plan(self._plan), data._replace(rows=self._source.rows)
        self._whole, self._rest, self._end = Queue(products=products), Queue(products=products), Queue()
        self._batch_size, (self._n_whole, rest) = batch_size, divmod(n, batch_size)
        self._n_rest = min(rest, 1)
        if self._n_whole:
            train_step(self._whole, model, data, work, self._plan, rule, batch_size)
        if rest:
            train_step(self._rest, model, data, work, self._plan, rule, rest)
        sum_of_batches(self._end, self._plan.losses, self._sums, batch_size)
        largest_magnitude(self._end, model.params, self._report[2 * n_batches :])

    def is_of(self, data: Data, n: int) -> bool:
        """Whether these are the rows that it was made for."""
        (rows, targets), size = self._of
        return rows is data.rows and targets is data.targets and size == n

    def run(self, steps: EpochSteps) -> tuple[np.ndarray, np.ndarray, float]:
        """Trains; returns each batch's weighted sum of losses and its penalty, and the largest weight of all."""
        plan, kind = self._plan, self._report.dtype
        plan.batch.order.copy_to_device(steps.order.astype(np.uint32))
        plan.batch.position.copy_to_device(np.array([0, 0, steps.step0], np.uint32))
        sizes = plan.steps.rates, plan.steps.l2, plan.steps.decays, plan.scales
        for into, values in zip(sizes, (steps.rates, steps.l2, steps.decays, steps.scales), strict=True):
            into.copy_to_device(values.astype(kind))
        for start, stop in self._source.pieces(steps.order):
            self._whole.run((stop - start) // self._batch_size)
            if stop == steps.order.size:
                self._rest.run(self._n_rest)
        self._end.run()
        report = self._report.copy_to_host()  # the only thing that is read back
        n_batches = plan.scales.size
        largest = float(report[2 * n_batches :].max())
        return report[:n_batches].astype(np.float64), report[n_batches : 2 * n_batches].astype(np.float64), largest


class Session:
    """One network's parameters in use: training, gradients, losses, predictions.

    Parameters
    ----------
    network : Network
    params : float32 or float64 (n_params,)
        On the host; updated in place by training, though not before `params` is read.
    loss : Loss
    loss_parameter : float
        Huber's delta or the quantile.
    label_smoothing : float
    n_jobs : int or None
        Of the CPU's workers; ignored.
    """

    _walk = walk
    matmul_precision = "highest"  # of float32 products in training; "high" allows TF32
    sums_gradients = False  # over a batch, instead of taking their mean

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
        check_size(2 * network.n_params, "the vector of parameters and moments")
        self.network = network
        self.loss = Loss(loss)
        self.n_outputs = int(network.layers["n_out"][-1])
        self._params = Mirror(params)
        self._moments = None
        kind = params.dtype.type
        self._kind, self._none = kind, empty(0, kind)
        self._rule = Rule(
            loss=int(self.loss),
            of_loss=LossRule(kind(loss_parameter), kind(label_smoothing)),
            optimizer=int(Optimizer.SGD),
            nesterov=False,
            of_step=StepRule(kind(0), kind(0), kind(0), kind(0)),
            max_grad_norm=0.0,
            seed=0,
        )
        self._workspaces, self._streamed = {}, None

    @property
    def params(self) -> np.ndarray:
        """The parameters on the host. What is written there counts from the next computation on."""
        return self._params.on_host()

    @property
    def moments(self) -> np.ndarray:
        """The optimizer's moments on the host. What is written there counts from the next computation on."""
        return self._moments.on_host()

    # ---------------------------------------------------------------- training

    def prepare(self, update: UpdateRule) -> None:
        """Sets the rule of the steps, with moments of zero, and makes room for its batches."""
        self.update = update
        kind, n_params = self._kind, self.network.n_params
        moments = np.zeros(2 * n_params, kind)
        if update.is_adagrad:
            moments[:n_params] = ADAGRAD_START
        self._moments = Mirror(moments)
        self._grads, self._is_weight = zeros(n_params, kind), flags_of_weights(self.network)
        gaps = 1.0 - float(update.beta_1), 1.0 - float(update.beta_2)
        self._rule = self._rule._replace(
            optimizer=int(update.optimizer),
            nesterov=bool(update.nesterov),
            of_step=StepRule(*(kind(number) for number in (update.momentum, *gaps, update.epsilon))),
            max_grad_norm=float(update.max_grad_norm),
            seed=int(update.seed),
        )
        self._epoch = None

    def train_epoch(self, rows: Rows, targets: Targets, plan: EpochPlan) -> float:
        """One pass over the rows of a plan; returns their mean loss, see `EpochSteps.mean_loss`.

        Raises
        ------
        KeyboardInterrupt
            Between two launches; the parameters are those after the last whole update.
        """
        steps = EpochSteps(self.update, plan, targets.host.weights, self.sums_gradients)
        data, n, batch_size = Data(rows, targets), steps.order.size, self.update.batch_size
        if self._epoch is None or not self._epoch.is_of(data, n):
            work, products = self._training_workspace(batch_size), Products(self.matmul_precision)
            model = self._model(self._grads)
            self._epoch = _Epoch(self._walk.train_step, model, data, n, batch_size, work, self._rule, products)
        self._params.changes_on_device()
        self._moments.changes_on_device()
        sums, penalties, self._largest_weight = self._epoch.run(steps)
        with np.errstate(all="ignore"):  # where training diverges, the trainer says so
            sums = sums / loss_divisor(self.loss, self.n_outputs)
            sums += steps.sums(loss_constants(self.loss, targets.host, steps.order))
        return steps.mean_loss(sums, penalties)

    def largest_weight(self) -> float:
        """Largest absolute value of the parameters, not finite where one of them is not; after an epoch."""
        return self._largest_weight

    def loss_and_gradient(self, rows: Rows, targets: Targets, alpha: float) -> tuple[float, np.ndarray]:
        """Weighted mean loss over all rows plus ``alpha / 2 |W|**2 / sum of weights``, and its gradient (n_params,)."""
        n = int(rows.n_rows)
        weight_sum = float(targets.host.weights.sum(dtype=np.float64))
        scale = 1.0 / weight_sum if weight_sum > 0 else 0.0
        grads = zeros(self.network.n_params, self._kind)
        block = min(n, cpu_session.FULL_ROWS)  # as on the CPU, where dropout's masks count rows within a block
        model, work, source = self._model(grads), self._workspace(block, True), self._source(rows, n, block)
        plan, data = source.plan(self._plan(n, scale, block)), Data(source.rows, targets)
        products = Products(self.matmul_precision)
        for first, last in source.pieces(None):
            for start in range(first, last, block):
                queue, size = Queue(products=products), min(block, last - start)
                walk.full_gradient(queue, model, data, work, plan, self._rule, start > 0, size)
                queue.run()
        loss = self._sum_of_losses(plan, targets) * scale
        grads = grads.copy_to_host()
        params = self.params
        for row in self.network.layers:
            weight = weight_of(params, row)
            loss += 0.5 * alpha * scale * float(np.vdot(weight, weight))
            weight_of(grads, row)[:] += (alpha * scale) * weight
        return loss, grads

    def snapshot(self, into=None):
        """What `restore` brings the parameters back to; `into` is an earlier one, whose memory is used again."""
        params = self._params.on_device()
        into = empty(params.size, self._kind) if into is None else into
        into.copy_to_device(params)
        return into

    def restore(self, snapshot) -> None:
        """The parameters as they were at a `snapshot`."""
        self._params.changes_on_device().copy_to_device(snapshot)

    # ---------------------------------------------------------------- without training

    def evaluate(self, rows: Rows, targets: Targets) -> float:
        """Weighted mean loss of the rows, without penalty and without dropout."""
        n, block = int(rows.n_rows), self._block_rows
        source, model, rule = self._source(rows, n, block), self._model(self._none), self._rule
        plan, data = source.plan(self._plan(n, 1.0, block)), Data(source.rows, targets)

        def evaluate(queue, work, n_rows):
            self._walk.evaluate(queue, model, data, work, plan, rule, n_rows)

        self._in_blocks(plan, True, evaluate, source)
        return self._sum_of_losses(plan, targets) / float(targets.host.weights.sum(dtype=np.float64))

    def predict(self, rows: Rows, out: np.ndarray | None = None) -> np.ndarray:
        """Predictions (n_rows, n_outputs) on the host: softmax, logistic, exp or the output itself, by the loss."""
        if out is None:
            out = np.empty((int(rows.n_rows), self.n_outputs), self._kind)
        return self._predict(rows, self.loss, out)

    def _predict(self, rows: Rows, loss: int, out: np.ndarray) -> np.ndarray:
        """What the walk's `predict` gives for this `loss`, in `out`."""
        n, width = out.shape
        check_size(out.size, "the predictions")
        source, model = self._source(rows, n, self._block_rows), self._model(self._none)
        plan = source.plan(self._plan(n, 1.0, self._block_rows))
        found = matrix(empty(out.size, self._kind), 0, width)

        def predict(queue, work, n_rows):
            self._walk.predict(queue, model, source.rows, work, plan, loss, found, n_rows)

        self._in_blocks(plan, False, predict, source)
        out[:] = found.data.copy_to_host().reshape(out.shape)
        return out

    @property
    def _block_rows(self) -> int:
        """Rows at a time outside training."""
        return BLOCK_ROWS

    def _in_blocks(self, plan: Plan, with_slopes: bool, put, source: Resident | Streamed | None = None) -> None:
        """Runs what ``put(queue, work, n_rows)`` launches, over all rows of a plan, which come from `source`."""
        n, block = plan.losses.size, self._block_rows
        work = self._workspace(min(n, block), with_slopes)
        for first, last in [(0, n)] if source is None else source.pieces(None):
            for start in range(first, last, block):
                queue = Queue()
                put(queue, work, min(block, last - start))
                queue.run()

    def _source(self, rows: Rows | HostRows, n: int, block: int) -> Resident | Streamed:
        """How rows come in blocks; buffers stay for rows that come again."""
        if not is_on_host(rows):
            return source_of(rows, self._kind, n, block)
        if self._streamed is None or self._streamed[0] is not rows or self._streamed[1] != block:
            self._streamed = rows, block, source_of(rows, self._kind, n, block)
        return self._streamed[2]

    # ---------------------------------------------------------------- memory

    def _model(self, grads) -> Model:
        moments = self._none if self._moments is None else self._moments.on_device()
        is_weight = None if self._moments is None else self._is_weight
        return Model(self.network.layers, self._params.on_device(), grads, moments, is_weight)

    def _training_workspace(self, n_rows: int) -> Workspace:
        """Room for batches of `n_rows` rows."""
        return self._workspace(n_rows, True)

    def _workspace(self, n_rows: int, with_slopes: bool) -> Workspace:
        """Room for `n_rows` rows, made once."""
        network, kind, capacity = self.network, self._kind, round_up(max(n_rows, 1))
        if (capacity, with_slopes) not in self._workspaces:
            size = capacity * network.output_width
            check_size(size, f"the output of all layers for {capacity} rows")
            n_inputs = capacity * int(network.layers["in_stride"][0])
            check_size(n_inputs, f"the input for {capacity} rows")
            self._workspaces[capacity, with_slopes] = Workspace(
                inputs=zeros(n_inputs, kind),
                input_slopes=self._none,
                outputs=zeros(size, kind),
                slopes=zeros(size if with_slopes else 0, kind),
                none=self._none,
                squares=zeros(n_sums(network.n_params), kind),
                clip=upload(np.ones(1, kind)),
                capacity=capacity,
            )
        return self._workspaces[capacity, with_slopes]

    def _plan(self, n: int, scale: float, block: int) -> Plan:
        """All rows as they stand, in blocks."""
        n_blocks = -(-n // block)
        plan = _new_plan(empty(0, np.uint32), n, n_blocks, self._kind)
        return plan._replace(scales=upload(np.full(n_blocks, scale, self._kind)))

    def _sum_of_losses(self, plan: Plan, targets: Targets) -> float:
        """Weighted sum of the losses that a plan has left."""
        sums, queue = empty(-(-plan.losses.size // BLOCK_ROWS), self._kind), Queue()
        sum_of_batches(queue, plan.losses, sums, BLOCK_ROWS)
        queue.run()
        total = float(sums.copy_to_host().sum(dtype=np.float64)) / loss_divisor(self.loss, self.n_outputs)
        return total + float(np.sum(loss_constants(self.loss, targets.host, slice(None)) * targets.host.weights))
