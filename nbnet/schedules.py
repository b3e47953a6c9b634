"""Learning rates: one number for each optimizer step.

A schedule is a function of *progress*, the share of all steps that lie behind, from 0 to 1; its value is the factor
on ``learning_rate_init``. scikit-learn's two further schedules, ``"invscaling"`` and ``"adaptive"``, change once an
epoch and belong to sgd; `LearningRate` knows all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ONE_CYCLE_RISE = 0.3  # share of the steps on which one_cycle rises, unless warmup_fraction says otherwise
ONE_CYCLE_START = 1 / 25  # factor of the first step
ONE_CYCLE_END = 1 / 250_000  # factor of the last step
ADAPTIVE_DIVISOR = 5.0
SMALLEST_ADAPTIVE_RATE = 1e-6  # "adaptive" stops at this rate instead of dividing it again


def constant(progress: np.ndarray) -> np.ndarray:
    """Factor 1 throughout."""
    return np.ones_like(progress)


def linear(progress: np.ndarray) -> np.ndarray:
    """From 1 to 0 on a straight line."""
    return 1.0 - progress


def cosine(progress: np.ndarray) -> np.ndarray:
    """From 1 to 0 on half a cosine wave.

    Source: Loshchilov, Hutter, SGDR: Stochastic gradient descent with warm restarts, 2017, eq. 5.
    """
    return 0.5 * (1.0 + np.cos(np.pi * progress))


def one_cycle(progress: np.ndarray, rise: float = ONE_CYCLE_RISE) -> np.ndarray:
    """From 1/25 up to 1 on the first `rise` of the steps, then down to 1/250000, both on half a cosine wave.

    Source: Smith, Topin, Super-convergence: very fast training of neural networks using large learning rates, 2018.
    """
    upward = ONE_CYCLE_START + (1.0 - ONE_CYCLE_START) * (1.0 - cosine(np.minimum(progress / rise, 1.0)))
    downward = ONE_CYCLE_END + (1.0 - ONE_CYCLE_END) * cosine(np.maximum(progress - rise, 0.0) / (1.0 - rise))
    return np.where(progress < rise, upward, downward)


STEP_SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "one_cycle": one_cycle}
SGD_SCHEDULES = ("invscaling", "adaptive")  # constant for any other solver, as in scikit-learn
LEARNING_RATES = (*STEP_SCHEDULES, *SGD_SCHEDULES)


def ends_at_max_iter(learning_rate: str) -> bool:
    """Whether the schedule is complete after `max_iter` epochs, so that reaching them is no failure to converge."""
    return learning_rate in ("linear", "cosine", "one_cycle")


class LearningRate(NamedTuple):
    """What decides the learning rate of each step.

    Attributes
    ----------
    schedule : str
        One of `LEARNING_RATES`.
    initial : float
        ``learning_rate_init``: the constant, first or highest rate.
    power_t : float
        Exponent of "invscaling".
    warmup_fraction : float
        Share of all steps on which the rate rises to its first value on a straight line. "one_cycle" has a rise of
        its own, of this length where it is not 0.
    max_iter : int
        Epochs of a complete schedule.
    solver : str
        "invscaling" and "adaptive" act for "sgd" only.
    """

    schedule: str
    initial: float
    power_t: float
    warmup_fraction: float
    max_iter: int
    solver: str

    def base(self, n_epochs: int, n_samples_seen: int, n_reductions: int) -> float:
        """Rate that one epoch starts from, before the factors of the single steps.

        Parameters
        ----------
        n_epochs : int
            Epochs that this optimizer has made.
        n_samples_seen : int
            Rows seen so far: scikit-learn's ``t_``.
        n_reductions : int
            How often "adaptive" has divided the rate.
        """
        if self.solver == "sgd" and self.schedule == "invscaling" and n_epochs > 0:
            return float(self.initial) / (n_samples_seen + 1) ** self.power_t
        if self.solver == "sgd" and self.schedule == "adaptive":
            return float(self.initial) / ADAPTIVE_DIVISOR**n_reductions
        return float(self.initial)

    def factors(self, n_epochs: int, n_batches: int) -> np.ndarray:
        """Factor on the rate for each step of the epoch that follows `n_epochs` others, float64 (n_batches,).

        After `max_iter` epochs (`partial_fit` can go on) the last factor is kept.
        """
        schedule = STEP_SCHEDULES.get(self.schedule, constant)
        if schedule is constant and self.warmup_fraction == 0:
            return np.ones(n_batches)
        n_steps = self.max_iter * n_batches
        step = np.minimum(n_epochs * n_batches + np.arange(n_batches), n_steps - 1)
        if schedule is one_cycle:
            return one_cycle(step / n_steps, self.warmup_fraction or ONE_CYCLE_RISE)
        n_warmup = self.warmup_fraction * n_steps
        factors = schedule(np.maximum(step - n_warmup, 0.0) / max(n_steps - n_warmup, 1.0))
        if n_warmup > 0:
            factors *= np.minimum((step + 1) / n_warmup, 1.0)
        return factors

    def rates(self, n_epochs: int, n_batches: int, n_samples_seen: int, n_reductions: int) -> np.ndarray:
        """Learning rate of each step of one epoch, float64 (n_batches,); arguments as in `base` and `factors`."""
        return self.base(n_epochs, n_samples_seen, n_reductions) * self.factors(n_epochs, n_batches)
