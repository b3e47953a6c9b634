"""scikit-learn's callbacks, which it has since version 1.9; before, estimators work without them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..trainer import EpochHooks

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # pragma: no cover  (scikit-learn < 1.9)

    class CallbackSupportMixin:
        """Stands in for scikit-learn's class of this name and offers nothing."""


# what scikit-learn keeps on the estimator while callbacks run; it removes them itself
CALLBACK_ATTRIBUTES = ("_callback_fit_ctx", "_skl_callbacks_to_teardown", "_skl_callbacks", "_parent_callback_ctx")


class CallbackHooks(EpochHooks):
    """Reports a fit, and each epoch as its subtask, to the callbacks of an estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator that is being fitted.
    max_epochs : int
        Most epochs there can be.
    attributes : callable
        ``attributes(params) -> dict``: what a copy of the estimator needs to predict with these parameters.
    X, y, sample_weight
        The arguments of fit. What a callback does not ask for is not computed.
    """

    def __init__(self, estimator, max_epochs: int, attributes: Callable[[np.ndarray], dict], X, y, sample_weight):
        self.estimator, self.attributes = estimator, attributes
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.data = {"X": X, "y": y, "metadata": metadata}
        self.fit_context = estimator._init_callback_context(max_subtasks=max_epochs)
        self.fit_context.call_on_fit_task_begin(estimator=estimator, **self.data)
        self.epoch_context = None

    def epoch_begin(self) -> None:
        self.epoch_context = self.fit_context.subcontext(task_name="epoch")
        self.epoch_context.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def epoch_end(self, params: Callable[[], np.ndarray]) -> bool:
        return self._end(self.epoch_context, params)

    def fit_end(self, params: np.ndarray) -> None:
        """After the last epoch."""
        self._end(self.fit_context, params.copy)

    def _end(self, context, params) -> bool:
        return context.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.attributes(params()),
            **self.data,
        )


def has_callbacks(estimator) -> bool:
    """Whether a callback would be called at all."""
    return bool(getattr(estimator, "_skl_callbacks", ()))
