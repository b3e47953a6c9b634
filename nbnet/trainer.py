"""Training: epochs, batches, learning rates, stopping rules, best weights, divergence, interruption.

Everything here is the same for every backend. A backend is a module with `as_rows`, `Targets` and `Session`; it is
picked once, by `backend_for`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from time import perf_counter
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from . import random
from .checkpoints import Checkpoint, Saved
from .epochs import EpochPlan, UpdateRule
from .network import Optimizer, aligned_zeros
from .progress import EpochRecord, Progress
from .schedules import SMALLEST_ADAPTIVE_RATE, LearningRate, ends_at_max_iter

LARGE_WEIGHT = 1e3  # from this absolute value on, an epoch's predictions are checked for overflow
STOCHASTIC_SOLVERS = tuple(member.name.lower() for member in Optimizer)

NON_FINITE_WEIGHTS = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


def backend_for(device: str, kind: str = "session", *, fitted: bool = False) -> ModuleType:
    """Module that computes on `device`: its "session" for tables, its "text_session" for documents.

    Parameters
    ----------
    device : str
        "cpu", "cuda" (the first GPU), "cuda:N" (GPU number N) or "auto" (the first GPU, else the CPU).
    kind : str
        Name of the module.
    fitted : bool
        Whether it is for a fitted model, which the CPU computes where there is no GPU.

    Raises
    ------
    RuntimeError
        If there is no such GPU, or something is missing to use it.
    """
    # imported here, not above: importing nbnet.trainer must not import kernels
    if device != "cpu" and (reason := why_not_on(device)):
        if device != "auto" and not fitted:
            raise RuntimeError(f"device={device!r} cannot be used: {reason}.")
        say_once(f"device={device!r} computes on the CPU: {reason}.")
        device = "cpu"
    return import_module(f".{'cpu' if device == 'cpu' else 'cuda'}.{kind}", __package__)


def backend_of_teams(device: str) -> ModuleType | None:
    """Module that trains many small networks at once on `device`; None where the CPU computes."""
    backend = backend_for(device)
    return import_module(".small_sessions", backend.__package__) if backend.__package__.endswith(".cuda") else None


def why_not_on(device: str) -> str:
    """What keeps us from the GPU that `device` means; empty: nothing."""
    from .cuda.device import number_of, why_no_cuda

    return why_no_cuda(number_of(device))


def faults_of(device: str) -> AbstractContextManager[None]:
    """A context in which what a GPU's driver raises becomes one sentence; see `nbnet.cuda.faults`."""
    if device == "cpu":
        return nullcontext()
    from .cuda.device import number_of
    from .cuda.faults import in_one_sentence

    return in_one_sentence(device, number_of(device))


def reporting_faults(method: Callable) -> Callable:
    """A method of what has a `device`, within `faults_of` it: an error drops all that the method holds on a GPU."""

    @functools.wraps(method)
    def reporting(self, *args, **options):
        with faults_of(self.device):
            return method(self, *args, **options)

    return reporting


def is_on_gpu(array) -> bool:
    """Whether an array lives on a GPU: CuPy's, PyTorch's, or any other with `__cuda_array_interface__`."""
    return hasattr(array, "__cuda_array_interface__")


def on_host(array):
    """What lives on a GPU as an ndarray; all else as it is."""
    if not is_on_gpu(array):
        return array
    from .cuda.arrays import to_host

    return to_host(array)


def beside(X, predictions: np.ndarray):
    """`predictions` on the GPU, where X is; on the host where X is there, and where they are no numbers."""
    if not is_on_gpu(X) or not isinstance(predictions, np.ndarray) or predictions.dtype.kind not in "biuf":
        return predictions
    from .cuda.arrays import to_device

    return to_device(predictions)


def validated_on_gpu(X, device: str, name: str, n_dims: int | None, dtypes: tuple):
    """Validated X of a GPU, which is not copied; see `nbnet.cuda.arrays.device_array`.

    Raises
    ------
    ValueError
        For an array that cannot be used as it is, and where `device` is the CPU.
    """
    if device == "cpu" or why_not_on(device):
        raise ValueError(
            f"{name} is on a GPU, but device={device!r} computes on the CPU; set device='cuda' or copy it."
        )
    from .cuda.arrays import device_array
    from .cuda.device import number_of

    return device_array(X, number_of(device), name, n_dims, dtypes)


@functools.cache
def say_once(message: str) -> None:
    """Warn, once in a process."""
    warnings.warn(message, UserWarning, stacklevel=4)


class Settings(NamedTuple):
    """Hyperparameters of a fit, under the names of the estimators' parameters."""

    solver: str
    alpha: float
    batch_size: int | str
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    tol: float
    verbose: bool | int
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    warmup_fraction: float
    max_grad_norm: float | None

    @classmethod
    def of(cls, estimator, **fixed) -> Settings:
        """Read every setting from the attribute of the same name, but for those that are `fixed`."""
        return cls(**{name: getattr(estimator, name) for name in cls._fields if name not in fixed}, **fixed)

    @property
    def schedule(self) -> LearningRate:
        """The learning rate of each step."""
        return LearningRate(
            self.learning_rate,
            self.learning_rate_init,
            self.power_t,
            self.warmup_fraction,
            self.max_iter,
            self.solver,
        )


class Data(NamedTuple):
    """Training rows of one call.

    Attributes
    ----------
    rows : Rows
        The backend's view of X.
    targets : Targets
        The backend's targets and weights, one for each row of X.
    row_numbers : int64 (n_samples,)
        The rows to train on.
    """

    rows: Any
    targets: Any
    row_numbers: np.ndarray


class Validation(NamedTuple):
    """Rows to validate on after each epoch.

    Attributes
    ----------
    rows, targets
        As in `Data`; all rows count.
    score : callable
        ``score(session, loss) -> float``, greater is better; `loss` is the weighted mean loss of these rows.
    """

    rows: Any
    targets: Any
    score: Callable[[Any, float], float]


class OptimizerState(NamedTuple):
    """What a later `partial_fit` needs to go on.

    Attributes
    ----------
    solver : str
        Whose moments these are.
    moments : ndarray (2 * n_params,)
        First, then second moments; velocities come first.
    n_steps, n_epochs : int
        Steps and epochs made with these moments.
    n_reductions : int
        How often "adaptive" has divided the learning rate.
    """

    solver: str
    moments: np.ndarray | None = None
    n_steps: int = 0
    n_epochs: int = 0
    n_reductions: int = 0


class EpochHooks:
    """Called around each epoch; this one does nothing. `nbnet.estimators.callbacks` has one for scikit-learn's."""

    def epoch_begin(self) -> None:
        """Before the first batch."""

    def epoch_end(self, params: Callable[[], np.ndarray]) -> bool:
        """After validation; `params` gives a copy of the parameters that would be kept now. True ends training."""
        return False


class Outcome(NamedTuple):
    """Result of one call.

    Attributes
    ----------
    params : ndarray (n_params,)
        Parameters to predict with: with early stopping those of the best validation score.
    latest_params : ndarray (n_params,)
        Parameters to go on from; the same array where the two agree.
    state : OptimizerState or None
        None where the next call must start afresh.
    """

    params: np.ndarray
    latest_params: np.ndarray
    state: OptimizerState | None


def aligned_copy(vector: np.ndarray, dtype=None) -> np.ndarray:
    """Copy of a vector on a cache line, as the kernels want their parameters."""
    out = aligned_zeros(vector.size, vector.dtype if dtype is None else dtype)
    out[:] = vector
    return out


def check_batch_size(batch_size: int | str, n_samples: int) -> int:
    """Rows of a batch: min(200, n_samples) for "auto"; clipped to `n_samples` with scikit-learn's warning."""
    if batch_size == "auto":
        return min(200, n_samples)
    if batch_size > n_samples:
        message = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
        warnings.warn(message, stacklevel=2)
    return int(np.clip(batch_size, 1, n_samples))


def predictions_overflow(largest: float, evaluate: Callable[[], float]) -> bool:
    """Whether the parameters, of which the `largest` is given, or what they predict for finite input, are not finite.

    Weights can be finite and yet so large that predictions overflow: only then does the check cost a forward pass.
    """
    if not np.isfinite(largest):
        return True
    return largest > LARGE_WEIGHT and not np.isfinite(evaluate())


def verbose_line(progress: Progress, has_validation: bool) -> str:
    """The line printed after an epoch: scikit-learn's, continued."""
    epoch = {key: curve[-1] for key, curve in progress.history.items()}
    line = f"Iteration {progress.n_iter}, loss = {progress.loss_curve[-1]:.8f}"
    if has_validation:
        line += f", validation loss = {epoch['val_loss']:.8f}, validation score = {epoch['val_score']:f}"
    if np.isfinite(epoch["learning_rate"]):
        line += f", learning rate = {epoch['learning_rate']:.3g}"
    return line + f", {epoch['seconds']:.3f} s"


def validate(session, validation: Validation | None) -> dict[str, float]:
    """Loss and score of the validation rows, under the keys of the history."""
    if validation is None:
        return {}
    loss = float(session.evaluate(validation.rows, validation.targets))
    score = validation.score(session, loss) if np.isfinite(loss) else np.nan
    return {"val_loss": loss, "val_score": float(score)}


class StochasticTraining:
    """Some epochs of sgd, adam or adamw.

    Parameters
    ----------
    session : Session
        Network and parameters on the device; its parameters are trained in place.
    data : Data
        Rows to train on.
    settings : Settings
        Hyperparameters.
    progress : Progress
        Curves and best values; appended to.
    state : OptimizerState or None
        Where `partial_fit` goes on from; None starts a fresh optimizer.
    seed : int
        Key of shuffles and dropout masks.
    best_params : ndarray (n_params,) or None
        Parameters of ``progress.best_validation_score``, from an earlier call.
    has_finite_epoch : bool
        Whether there are usable parameters to go back to, so that divergence warns instead of raising.
    largest_loss : float
        An epoch of a greater loss has diverged, even if its weights are finite.
    target_loss : float
        Training ends after an epoch whose loss is at most this.
    keeps_snapshot : bool
        Whether to keep the parameters of the last finite epoch; without them, training that diverges raises an error.
    validation : Validation or None
        Rows to validate on.
    hooks : EpochHooks
        Called around each epoch.
    checkpoint : Checkpoint or None
        Where training goes on from, and what it writes on the way.
    """

    def __init__(
        self,
        session,
        data: Data,
        settings: Settings,
        progress: Progress,
        state: OptimizerState | None,
        *,
        seed: int,
        best_params: np.ndarray | None = None,
        has_finite_epoch: bool = False,
        largest_loss: float = np.inf,
        target_loss: float = -np.inf,
        keeps_snapshot: bool = True,
        validation: Validation | None = None,
        hooks: EpochHooks | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        self.session, self.data, self.settings, self.progress = session, data, settings, progress
        self.checkpoint = checkpoint
        self.validation, self.hooks, self.seed = validation, hooks or EpochHooks(), seed
        self.schedule = settings.schedule
        self.n_samples = len(data.row_numbers)
        self._takes_all_rows = np.array_equal(data.row_numbers, np.arange(self.n_samples))
        self.batch_size = check_batch_size(settings.batch_size, self.n_samples)
        self.n_batches = -(-self.n_samples // self.batch_size)
        self.best_params, self.has_finite_epoch = best_params, has_finite_epoch
        self.largest_loss, self.target_loss, self.keeps_snapshot = largest_loss, target_loss, keeps_snapshot
        resumed = state is not None and state.solver == settings.solver and state.moments is not None
        self.state = state if resumed else OptimizerState(settings.solver)
        self.epochs_before = len(progress.loss_curve)  # with one seed, shuffles go on where the last call ended
        session.prepare(
            UpdateRule(
                Optimizer[settings.solver.upper()],
                self.batch_size,
                momentum=settings.momentum,
                nesterov=settings.nesterovs_momentum,
                beta_1=settings.beta_1,
                beta_2=settings.beta_2,
                epsilon=settings.epsilon,
                alpha=settings.alpha,
                max_grad_norm=settings.max_grad_norm or 0.0,
                seed=seed,
            )
        )
        if resumed:
            session.moments[: self.state.moments.size] = self.state.moments  # new tokens have theirs behind
        if checkpoint is not None and checkpoint.saved is not None:
            self.resume(checkpoint.saved)

    def resume(self, saved: Saved) -> None:
        """Go on where an interrupted training had arrived, at the end of an epoch."""
        self.session.params[:], self.session.moments[:] = saved.params, saved.moments
        if saved.best_params is not None:
            self.best_params = aligned_copy(saved.best_params)
        self.state = OptimizerState(self.settings.solver, None, *saved.counts)
        self.progress.set(saved.progress)
        self.has_finite_epoch = True

    @property
    def reached(self) -> Saved:
        """What `resume` needs."""
        state, progress = self.state, self.progress.attributes()
        counts = state.n_steps, state.n_epochs, state.n_reductions
        return Saved(self.session.params, self.session.moments, self.best_params, counts, progress)

    def run(self, max_epochs: int, warn_at_max_iter: bool = True) -> Outcome:
        """Train for `max_epochs` epochs or until a stopping rule, a callback, divergence or Ctrl-C ends it.

        Raises
        ------
        ValueError
            scikit-learn's, where not one epoch was finite, or where training diverges and no snapshot is kept.
        """
        last_finite = self.session.snapshot() if self.keeps_snapshot else None
        interrupted = diverged = stopping = False
        try:
            while not stopping and self.progress.n_iter < max_epochs:
                self.hooks.epoch_begin()
                diverged = not self.run_epoch()
                if diverged:
                    break
                if self.keeps_snapshot:
                    last_finite = self.session.snapshot(last_finite)
                stopping = self.update_stopping_rule()
                # not behind the last epoch: what goes on from a checkpoint has something to do and warns as usual
                if self.checkpoint is not None and not stopping and self.progress.n_iter < max_epochs:
                    self.checkpoint.epoch_end(self.progress.n_iter, self.reached)
                stopping = self.hooks.epoch_end(self.copy_kept_params) or stopping
            at_max_iter = self.progress.n_iter == self.settings.max_iter
            if warn_at_max_iter and at_max_iter and not stopping and not diverged:
                self.warn_at_max_iter()
        except KeyboardInterrupt:
            interrupted = True
            warnings.warn("Training interrupted by user.", stacklevel=2)
            diverged = not np.isfinite(self.session.params).all()
        if diverged:
            if last_finite is None:
                raise ValueError(NON_FINITE_WEIGHTS)
            self.session.restore(last_finite)
            if not interrupted:
                self.report_divergence()
        latest = self.session.params
        params = self.best_params if self.settings.early_stopping and self.best_params is not None else latest
        state = None if diverged else self.state._replace(moments=self.session.moments)
        if self.checkpoint is not None:
            self.checkpoint.complete = not interrupted
        return Outcome(params, latest, state)

    def run_epoch(self) -> bool:
        """Train and validate one epoch and record it; False where it is not finite."""
        started = perf_counter()
        plan = self.plan_epoch()
        loss = self.session.train_epoch(self.data.rows, self.data.targets, plan)
        return self.record_epoch(plan, loss, started)

    def plan_epoch(self) -> EpochPlan:
        """The next epoch's rows in order and step sizes."""
        settings, state, progress = self.settings, self.state, self.progress
        order = self.data.row_numbers
        if settings.shuffle:
            epoch_number = self.epochs_before + progress.n_iter
            shuffled = random.permutation(self.seed, epoch_number, self.n_samples)
            order = shuffled if self._takes_all_rows else order[shuffled]
        rates = self.schedule.rates(state.n_epochs, self.n_batches, progress.n_samples_seen, state.n_reductions)
        decays = rates * settings.alpha if settings.solver == "adamw" else np.zeros_like(rates)
        return EpochPlan(order, rates, decays, state.n_steps)

    def record_epoch(self, plan: EpochPlan, loss: float, started: float) -> bool:
        """Validate after an epoch of that loss, begun at that time, and record it; False where it is not finite."""
        settings, state, progress = self.settings, self.state, self.progress
        self.state = state._replace(n_steps=state.n_steps + self.n_batches, n_epochs=state.n_epochs + 1)
        finite = np.isfinite(loss) and loss <= self.largest_loss
        finite = finite and not predictions_overflow(self.session.largest_weight(), self.evaluate_training_rows)
        scores = {}
        if finite:
            scores = validate(self.session, self.validation)
            finite = bool(np.isfinite(scores.get("val_loss", 0.0)))
        if not finite:
            loss, scores = np.nan, {}
        epoch = EpochRecord(loss=loss, learning_rate=plan.rates[-1], seconds=perf_counter() - started, **scores)
        progress.record(epoch, self.n_samples)
        if settings.verbose:
            print(verbose_line(progress, self.validation is not None))
        self.has_finite_epoch |= finite
        return finite

    def evaluate_training_rows(self) -> float:
        """Loss of the training rows, without penalty and dropout."""
        return self.session.evaluate(self.data.rows, self.data.targets)

    def update_stopping_rule(self) -> bool:
        """Compare with the best epoch, keep its weights, and apply scikit-learn's stopping rule; True ends training."""
        settings, progress = self.settings, self.progress
        if progress.update_best(settings.tol) and settings.early_stopping:
            if self.best_params is None:
                self.best_params = aligned_copy(self.session.params)
            else:
                self.best_params[:] = self.session.params
        if progress.loss <= self.target_loss:
            if settings.verbose:
                print(f"Training loss reached {self.target_loss:f}. Stopping.")
            return True
        if progress.no_improvement_count <= settings.n_iter_no_change:
            return False
        watched = "Validation score" if settings.early_stopping else "Training loss"
        message = (
            f"{watched} did not improve more than tol={settings.tol:f} for {settings.n_iter_no_change} "
            "consecutive epochs."
        )
        stopping = self.trigger_stopping(message)
        if not stopping:
            progress.no_improvement_count = 0
        return stopping

    def trigger_stopping(self, message: str) -> bool:
        """Stop, or divide the learning rate where it is adaptive; says so if verbose."""
        stopping = True
        if self.settings.solver == "sgd" and self.settings.learning_rate == "adaptive":
            state = self.state
            rate = self.schedule.base(state.n_epochs, self.progress.n_samples_seen, state.n_reductions)
            if rate <= SMALLEST_ADAPTIVE_RATE:
                message += " Learning rate too small. Stopping."
            else:
                self.state = state._replace(n_reductions=state.n_reductions + 1)
                rate = self.schedule.base(state.n_epochs, self.progress.n_samples_seen, self.state.n_reductions)
                message += f" Setting learning rate to {rate:f}"
                stopping = False
        else:
            message += " Stopping."
        if self.settings.verbose:
            print(message)
        return stopping

    def copy_kept_params(self) -> np.ndarray:
        """Copy of the parameters that would be kept if training ended now."""
        kept = self.best_params if self.settings.early_stopping and self.best_params is not None else None
        return aligned_copy(self.session.params if kept is None else kept)

    def warn_at_max_iter(self) -> None:
        """scikit-learn's warning, unless the schedule was made to end here."""
        if not ends_at_max_iter(self.settings.learning_rate):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.settings.max_iter}) reached and the optimization "
                "hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def report_divergence(self) -> None:
        """Raise where there are no finite weights to go back to, else warn."""
        if not self.has_finite_epoch:
            raise ValueError(NON_FINITE_WEIGHTS)
        reason, else_do = "loss or weights are no longer finite", ", scale the input or set max_grad_norm"
        if np.isfinite(self.largest_loss):  # of texts, which have no scale
            reason, else_do = f"its loss is above {self.largest_loss:.0f} or not finite", ""
        warnings.warn(
            f"Training diverged in iteration {self.progress.n_iter}: {reason}. The last finite weights are kept. Lower "
            f"learning_rate_init={self.settings.learning_rate_init:g}{else_do}.",
            ConvergenceWarning,
            stacklevel=2,
        )
