"""L-BFGS on the flat vector, through scipy."""

from __future__ import annotations

import warnings
from time import perf_counter

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from .progress import EpochRecord, Progress
from .trainer import NON_FINITE_WEIGHTS, Data, EpochHooks, Settings, Validation, aligned_copy, validate


class _StoppedByHook(Exception):
    """A callback asked to end training."""


def minimize(
    session,
    data: Data,
    settings: Settings,
    progress: Progress,
    *,
    validation: Validation | None = None,
    hooks: EpochHooks | None = None,
) -> np.ndarray:
    """Minimize the loss of all rows; returns the parameters, float64 (n_params,).

    Pads are zero and have a zero gradient, so the flat vector needs no packing.

    Parameters
    ----------
    session : Session
        Network and float64 parameters; the parameters are the starting point and are overwritten.
    data, settings, progress, validation, hooks
        As in `nbnet.trainer.StochasticTraining`; an iteration counts as an epoch.

    Raises
    ------
    ValueError
        scikit-learn's, where the result is not finite.
    """
    hooks = hooks or EpochHooks()
    start = session.params.copy()
    iterate = start.copy()  # the last accepted point, for Ctrl-C and callbacks that end training
    evaluated_loss = np.inf
    started = perf_counter()

    def loss_and_gradient(params):
        nonlocal evaluated_loss
        session.params[:] = params
        evaluated_loss, gradient = session.loss_and_gradient(data.rows, data.targets, settings.alpha)
        return evaluated_loss, gradient

    def iteration_end(params):
        nonlocal started
        iterate[:] = params
        session.params[:] = params
        scores = validate(session, validation)
        epoch = EpochRecord(loss=evaluated_loss, seconds=perf_counter() - started, **scores)
        progress.n_iter += 1
        progress.loss = evaluated_loss
        for key, curve in progress.history.items():
            curve.append(float(epoch[key]))
        if settings.verbose:
            print(f"Iteration {progress.n_iter}, loss = {evaluated_loss:.8f}")
        if hooks.epoch_end(lambda: aligned_copy(iterate)):
            raise _StoppedByHook
        started = perf_counter()
        if progress.n_iter < settings.max_iter:
            hooks.epoch_begin()

    hooks.epoch_begin()
    try:
        result = scipy.optimize.minimize(
            loss_and_gradient,
            start,
            method="L-BFGS-B",
            jac=True,
            callback=iteration_end,
            options={"maxfun": settings.max_fun, "maxiter": settings.max_iter, "gtol": settings.tol},
        )
    except _StoppedByHook:
        pass
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    else:
        progress.n_iter = _check_optimize_result("lbfgs", result, settings.max_iter)
        progress.loss = float(result.fun)
        iterate = result.x
    if not np.isfinite(iterate).all():
        raise ValueError(NON_FINITE_WEIGHTS)
    return iterate
