"""What training has reached so far: curves, best values, and the count of epochs without improvement that stops it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .model_files import Arrays, Fields, encode

HISTORY_KEYS = ("loss", "val_loss", "val_score", "learning_rate", "seconds")

# fitted attribute of the estimators -> field of Progress
PROGRESS_ATTRIBUTES = {
    "loss_": "loss",
    "best_loss_": "best_loss",
    "loss_curve_": "loss_curve",
    "validation_scores_": "validation_scores",
    "best_validation_score_": "best_validation_score",
    "n_iter_": "n_iter",
    "t_": "n_samples_seen",
    "history_": "history",
    "_no_improvement_count": "no_improvement_count",
}
CURVES = ("loss_curve_", "validation_scores_")


def empty_history() -> dict[str, list[float]]:
    """Curves of no epoch."""
    return {key: [] for key in HISTORY_KEYS}


class EpochRecord(dict):
    """Values of one epoch under the keys of `HISTORY_KEYS`; NaN where there is no such value."""

    def __init__(self, **values):
        super().__init__(dict.fromkeys(HISTORY_KEYS, np.nan), **values)


@dataclass
class Progress:
    """Curves and stopping rule of one estimator, across calls of `fit` with ``warm_start`` and of `partial_fit`.

    Attributes
    ----------
    loss : float
        Training loss of the last finite epoch; infinity before the first.
    best_loss, best_validation_score : float or None
        Lowest loss, or highest score with early stopping; the other one is None.
    loss_curve, validation_scores : list of float
        One entry an epoch; `validation_scores` is None without early stopping.
    n_iter : int
        Epochs of the current call.
    n_samples_seen : int
        Rows seen in all.
    no_improvement_count : int
        Consecutive epochs that did not improve by `tol`.
    history : dict of list
        One list for each of `HISTORY_KEYS`, one entry an epoch.
    """

    loss: float = np.inf
    best_loss: float | None = np.inf
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] | None = None
    best_validation_score: float | None = None
    n_iter: int = 0
    n_samples_seen: int = 0
    no_improvement_count: int = 0
    history: dict[str, list[float]] = field(default_factory=empty_history)

    @classmethod
    def start(cls, early_stopping: bool) -> Progress:
        """Nothing reached yet."""
        progress = cls()
        progress.prepare(early_stopping)
        return progress

    @classmethod
    def resume(cls, attributes: dict, early_stopping: bool) -> Progress:
        """Go on from the fitted attributes of an estimator; lists are copied."""
        values = {name: attributes[key] for key, name in PROGRESS_ATTRIBUTES.items() if key in attributes}
        for name in ("loss_curve", "validation_scores"):
            if values.get(name) is not None:
                values[name] = list(values[name])
        values["history"] = {key: list(curve) for key, curve in values.get("history", empty_history()).items()}
        progress = cls(**values)
        progress.prepare(early_stopping)
        return progress

    def prepare(self, early_stopping: bool) -> None:
        """Set what scikit-learn sets with, or without, early stopping; values of an earlier call are kept."""
        self.n_iter = 0
        if early_stopping:
            self.best_loss = None
            self.validation_scores = [] if self.validation_scores is None else self.validation_scores
            if self.best_validation_score is None:
                self.best_validation_score = -np.inf
        else:
            self.best_loss = np.inf if self.best_loss is None else self.best_loss
            self.validation_scores = self.best_validation_score = None

    def attributes(self) -> dict:
        """Fitted attributes of the estimator."""
        return {key: getattr(self, name) for key, name in PROGRESS_ATTRIBUTES.items()}

    def set(self, attributes: dict) -> None:
        """Inverse of `attributes`."""
        for key, name in PROGRESS_ATTRIBUTES.items():
            setattr(self, name, attributes[key])

    def record(self, epoch: EpochRecord, n_samples: int) -> None:
        """Append one epoch to the curves."""
        self.n_iter += 1
        self.n_samples_seen += n_samples
        self.loss_curve.append(epoch["loss"])
        if self.validation_scores is not None:
            self.validation_scores.append(epoch["val_score"])
        for key, curve in self.history.items():
            curve.append(float(epoch[key]))
        if np.isfinite(epoch["loss"]):
            self.loss = epoch["loss"]

    def update_best(self, tol: float) -> bool:
        """Compare the last epoch with the best one and count; True where it is the best so far.

        Without early stopping the training loss is compared, with it the validation score.
        """
        if self.validation_scores is not None:
            score, best = self.validation_scores[-1], self.best_validation_score
            improved_enough, improved = not score < best + tol, score > best
            if improved:
                self.best_validation_score = score
        else:
            loss, best = self.loss_curve[-1], self.best_loss
            improved_enough, improved = not loss > best - tol, loss < best
            if improved:
                self.best_loss = loss
        self.no_improvement_count = 0 if improved_enough else self.no_improvement_count + 1
        return improved


# ---------------------------------------------------------------- in files


def encode_progress(attributes: dict, arrays: dict) -> dict:
    """Those of `PROGRESS_ATTRIBUTES` that there are, for the header of a file; curves go into `arrays`."""
    kept = {name: attributes[name] for name in PROGRESS_ATTRIBUTES if name in attributes}
    for key, curve in kept.pop("history_").items():
        arrays[f"history_.{key}"] = np.array(curve, np.float64)
    for name in CURVES:
        if kept.get(name) is not None:
            arrays[name] = np.array(kept.pop(name), np.float64)
    return {name: encode(value) for name, value in kept.items()}


def decode_progress(fields: Fields, arrays: Arrays) -> dict:
    """Inverse of `encode_progress`, for a file that is not trusted."""

    def curve(name: str) -> list[float]:
        return arrays.take(name, np.float64, (None,)).tolist()

    attributes = {"history_": {key: curve(f"history_.{key}") for key in HISTORY_KEYS}}
    attributes |= {name: curve(name) for name in CURVES if name in arrays}
    for name in PROGRESS_ATTRIBUTES:
        if name in fields.entries:
            attributes[name] = fields.value(name, int, float, type(None))
    fields.finish()
    return attributes
