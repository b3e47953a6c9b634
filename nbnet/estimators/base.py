"""What estimators share: `NetworkEstimator` of all of them, `BaseNetwork` of those of tables and images."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral, Real
from typing import NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from .. import random, trainer
from ..network import ACTIVATION_CODES
from ..progress import PROGRESS_ATTRIBUTES
from ..schedules import LEARNING_RATES
from .callbacks import CALLBACK_ATTRIBUTES, CallbackHooks, CallbackSupportMixin, has_callbacks
from .run import Encoded, Job, Output, Run, Table
from .saving import SavingMixin
from .shared import SharedRows
from .validation import DeviceOptions, check_checkpoint, check_range, check_validation_arguments, check_weights


class Call(NamedTuple):
    """Which call of fit or partial_fit this is."""

    first: bool  # whether it starts with new parameters
    incremental: bool  # whether it is partial_fit
    dtype: np.dtype  # of the fitted arrays
    seed: int


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Give the estimator back as it was if the block raises: nothing is ever half-fitted.

    What the driver of a GPU raises becomes one sentence.
    """
    before = vars(estimator).copy()
    try:
        with trainer.faults_of(getattr(estimator, "device", "cpu")):
            yield
    except BaseException:
        kept = {key: value for key, value in vars(estimator).items() if key in CALLBACK_ATTRIBUTES}
        vars(estimator).clear()
        vars(estimator).update({key: value for key, value in before.items() if key not in CALLBACK_ATTRIBUTES})
        vars(estimator).update(kept)
        raise


class NetworkEstimator(SavingMixin, CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta):
    """A network with `fit`: the way of a call from its arguments to fitted attributes."""

    _session_kind: str  # module of the backend

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATION_CODES)), list, tuple],
        "solver": [StrOptions(set(trainer.STOCHASTIC_SOLVERS))],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "warmup_fraction": [Interval(Real, 0, 1, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [StrOptions({*get_scorer_names(), "loss"}), callable, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "device": [DeviceOptions()],
    }

    # ------------------------------------------------------------------ fit

    def _fit(self, *args, **options) -> Self:
        """One call of fit or partial_fit; the arguments are those of `_fit_or_raise`."""
        with unchanged_on_error(self):
            # a frame of its own, so that an error can drop what it holds on a GPU
            return self._fit_or_raise(*args, **options)

    def _fit_or_raise(
        self,
        X,
        y,
        sample_weight,
        X_val,
        y_val,
        sample_weight_val,
        *,
        incremental: bool,
        checkpoint=None,
        checkpoint_every=1,
    ) -> Self:
        with ExitStack() as stack:
            check_checkpoint(self, checkpoint, checkpoint_every)
            y, sample_weight, y_val, sample_weight_val = map(
                trainer.on_host, (y, sample_weight, y_val, sample_weight_val)
            )
            backend = trainer.backend_for(self.device, self._session_kind)
            check_validation_arguments(X_val, y_val, sample_weight_val)
            validation = X_val, y_val, sample_weight_val
            job = self._prepare_fit(backend, X, y, sample_weight, validation, incremental)
            if checkpoint is not None:
                job.run.use(stack, checkpoint, checkpoint_every, (job.table, job.rows, job.held_out), job.first)
            hooks = None
            if has_callbacks(self) and not incremental:
                run = job.run
                hooks = CallbackHooks(self, self.max_iter - run.n_iter_before, run.attributes, X, y, sample_weight)
            self._finish_fit(job.run.train(*job.data(), hooks, job.first, incremental))
            if hooks is not None:
                hooks.fit_end(self.params_)
        return self

    @abstractmethod
    def _prepare_fit(self, backend, X, y, sample_weight, validation, incremental: bool) -> Job:
        """Everything that comes before the training itself; `validation` is (X_val, y_val, sample_weight_val)."""

    @abstractmethod
    def _score_predictions(self, encoded, predictions: np.ndarray, weights: np.ndarray | None) -> float:
        """Score of the network's output; greater is better."""

    def _finish_fit(self, attributes: dict) -> None:
        """Everything that comes after the training: its results become attributes."""
        for name in PROGRESS_ATTRIBUTES:
            vars(self).pop(name, None)
        vars(self).update(attributes)

    def _starts_anew(self, incremental: bool) -> bool:
        """Whether a call starts with new parameters."""
        return "params_" not in vars(self) or not (self.warm_start or incremental)

    def _split(self, encoded: Encoded, rows: np.ndarray, random_state) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and rows held out for early stopping."""
        training, held_out = train_test_split(
            rows,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(encoded, rows),
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return training, held_out

    def _stratify(self, encoded: Encoded, rows: np.ndarray) -> np.ndarray | None:
        """Groups whose shares the split for early stopping keeps."""
        return None

    @property
    def _latest(self) -> np.ndarray:
        """The parameters of the last epoch, which early stopping may not have kept."""
        latest = vars(self).get("_latest_params")
        return self.params_ if latest is None else latest

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        params = vars(self).get("params_")
        # unpickling may leave the vector off a cache line, or map a read-only file
        if params is not None and (params.ctypes.data % 64 or not params.flags.writeable):
            self.params_ = trainer.aligned_copy(params)


class BaseNetwork(NetworkEstimator):
    """A network over rows of X, be they of a table or images."""

    _session_kind = "session"

    # ------------------------------------------------------------------ targets: each estimator knows its own

    @abstractmethod
    def _validate_input(self, X, y, *, reset: bool, incremental: bool):
        """Validated X and y; sets what the targets determine (classes_)."""

    @abstractmethod
    def _validate_y_val(self, y_val):
        """Validated targets of the validation rows."""

    @abstractmethod
    def _encode(self, y, dtype, name: str = "y") -> Encoded:
        """Numbers of validated targets."""

    @abstractmethod
    def _output(self, encoded: Encoded) -> Output:
        """Loss and last layer for such targets."""

    def _class_weights(self, encoded: Encoded, weights: np.ndarray, incremental: bool) -> np.ndarray | None:
        """Weight of each class; None where all count the same."""
        return None

    def _row_weights(self, encoded: Encoded, weights: np.ndarray, class_weights: np.ndarray | None) -> np.ndarray:
        """Sample weights times class weights."""
        return weights

    # ------------------------------------------------------------------ rows: tables and images differ here

    @abstractmethod
    def _validate_rows(self, X, y="no_validation", *, reset: bool = False, **options):
        """Validated X, or X and y, as arrays that kernels can read."""

    @abstractmethod
    def _validate_rows_val(self, X_val, dtype):
        """Validated X of the validation rows."""

    @abstractmethod
    def _prepare_run(self, backend, table: Table, rows: np.ndarray, output: Output, call: Call) -> Run:
        """Network, starting parameters and what is learned from X itself, ready to train on `rows` of the table."""

    def _on_host(self, X, y, sample_weight):
        """Arguments of `score`, which is computed on the host: only X stays on a GPU, validated."""
        if trainer.is_on_gpu(X):
            check_is_fitted(self)
            X = self._validate_rows(X)
        return X, trainer.on_host(y), trainer.on_host(sample_weight)

    # ------------------------------------------------------------------ fit

    def _fit(self, X, *args, **options) -> Self:
        if isinstance(X, SharedRows):
            if (learned := X.learned(self)) is not None:
                vars(self).update(learned)
                return self
            X = X if self.solver != "lbfgs" else X.given_rows()  # L-BFGS reads every row that it is given
        return super()._fit(X, *args, **options)

    def _prepare_fit(self, backend, X, y, sample_weight, validation, incremental: bool) -> Job:
        X_val, y_val, sample_weight_val = validation
        first = self._starts_anew(incremental)
        table, class_weights = self._training_table(X, y, sample_weight, first, incremental)
        dtype = self._fitted_dtype(table.X, first)
        rows = X.numbers if isinstance(X, SharedRows) else np.arange(table.X.shape[0])
        if not table.loss_weights[rows].all():
            rows = rows[table.loss_weights[rows] > 0]  # a weight of 0 is the row's absence
        random_state = check_random_state(self.random_state)
        seed = random.draw_seed(random_state)
        held_out = None
        if X_val is not None:
            held_out = self._validation_table(X_val, y_val, sample_weight_val, class_weights, dtype)
        elif self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        elif self.early_stopping and self.solver != "lbfgs":
            rows, held_out_rows = self._split(table.encoded, rows, random_state)
            held_out = table.take(held_out_rows)

        output = self._output(table.encoded)
        self.n_outputs_, self.out_activation_ = output.n_outputs, output.activation
        run = self._prepare_run(backend, table, rows, output, Call(first, incremental, dtype, seed))
        if isinstance(X, SharedRows):
            run.shared = X
        return Job(run, table, rows, held_out, first)

    def _fitted_dtype(self, X, first: bool) -> np.dtype:
        """Precision of the fitted arrays: `dtype` if set, else the one fitted before, else that of X."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        if not first:
            return self.params_.dtype
        return X.dtype if X.dtype.kind == "f" else np.dtype(np.float32)

    def _training_table(self, X, y, sample_weight, first: bool, incremental: bool):
        """Validated training rows, and the class weights learned from them; X keeps its precision."""
        shared = X if isinstance(X, SharedRows) else None
        X, y = self._validate_input(X, y, reset=first, incremental=incremental)
        dtype = self._fitted_dtype(X, first)
        check_range(X, dtype)
        weights = check_weights(sample_weight, y)
        encoded = self._encode(y, dtype)
        class_weights = self._class_weights(encoded, weights, incremental)
        table = Table(X, encoded, weights, self._loss_weights(encoded, weights, class_weights, y))
        return table if shared is None else table.spread(shared.numbers), class_weights

    def _validation_table(self, X_val, y_val, sample_weight_val, class_weights, dtype) -> Table:
        """Validated rows of the user's validation set."""
        X_val = self._validate_rows_val(X_val, dtype)
        encoded = self._encode(self._validate_y_val(y_val), dtype, "y_val")
        weights = check_weights(sample_weight_val, X_val, "sample_weight_val")
        return Table(X_val, encoded, weights, self._loss_weights(encoded, weights, class_weights, X_val))

    def _loss_weights(self, encoded, weights, class_weights, rows) -> np.ndarray:
        """Weights of the rows, with those of their classes; `rows` has as many."""
        combined = self._row_weights(encoded, weights, class_weights)
        return weights if combined is weights else check_weights(combined, rows)
