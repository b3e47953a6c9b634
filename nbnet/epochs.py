"""An epoch as the trainer asks for it, and what is the same on every device: the steps' sizes, and its mean loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from .network import Loss, Optimizer

ADAGRAD_START = 1e-3  # the sum of squares before the first step; from zero, the first steps are as long as the rate


class UpdateRule(NamedTuple):
    """How the gradients of batches change the parameters; a session is prepared for one."""

    optimizer: Optimizer
    batch_size: int  # rows
    momentum: float = 0.9
    nesterov: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    alpha: float = 0.0  # the weights' penalty
    max_grad_norm: float = 0.0  # 0: gradients are not clipped
    seed: int = 0  # of dropout's masks

    @property
    def is_adagrad(self) -> bool:
        """Whether moments are sums of squares."""
        return self.optimizer == Optimizer.ADAGRAD

    @property
    def is_adam(self) -> bool:
        """Whether moments are means of gradients and of their squares."""
        return self.optimizer in (Optimizer.ADAM, Optimizer.ADAMW)

    @property
    def l2(self) -> float:
        """The penalty that is part of the loss; adamw's is not."""
        return 0.0 if self.optimizer == Optimizer.ADAMW else self.alpha


class EpochPlan(NamedTuple):
    """What the trainer asks for.

    Attributes
    ----------
    order : int64 (n,)
        Row numbers; batch b is ``order[b * batch_size : (b + 1) * batch_size]``.
    rates, decays : float64 (n_batches,)
        Learning rate, and decoupled weight decay, of each step.
    step0 : int
        Steps made before this epoch.
    """

    order: np.ndarray
    rates: np.ndarray
    decays: np.ndarray
    step0: int


class EpochSteps:
    """The steps of an epoch, as kernels take them.

    Parameters
    ----------
    rule : UpdateRule
    plan : EpochPlan
    row_weights : ndarray (n_rows,)
        Of all rows.
    sums_gradients : bool
        Whether the gradients of a batch's rows are summed, not averaged.

    Attributes
    ----------
    starts, sizes : int64 (n_batches,)
        Where each batch starts in `order`, and how many rows it has.
    rates, l2, decays, scales : float64 (n_batches,)
        Factors: of the update, adam's bias correction (Kingma and Ba, 2015) included; of a weight in its gradient; of a
        weight that decays; of a row's gradient.
    """

    def __init__(self, rule: UpdateRule, plan: EpochPlan, row_weights: np.ndarray, sums_gradients: bool = False):
        self.order, rates, decays, self.step0 = plan
        self._penalty = rule.l2
        self.starts = np.arange(0, self.order.size, rule.batch_size)
        self.sizes = np.minimum(rule.batch_size, self.order.size - self.starts)
        self._weights = row_weights[self.order].astype(np.float64)
        sums = np.add.reduceat(self._weights, self.starts)
        self._means = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
        self.scales = np.ones_like(sums) if sums_gradients else self._means
        self.rates, self.decays = np.asarray(rates, np.float64), np.ascontiguousarray(decays, np.float64)
        if rule.is_adam:
            steps = self.step0 + 1.0 + np.arange(self.starts.size)
            self.rates = self.rates * np.sqrt(1.0 - rule.beta_2**steps) / (1.0 - rule.beta_1**steps)
        self.l2 = self._penalty * self.scales

    def sums(self, losses: np.ndarray) -> np.ndarray:
        """Weighted sums (n_batches,) over each batch, of losses (n,) in the plan's order."""
        return np.add.reduceat(losses * self._weights, self.starts)

    def mean_loss(self, sums: np.ndarray, penalties: np.ndarray) -> float:
        """Mean over rows of their batch's mean loss, the penalty included: scikit-learn's ``loss_``.

        Parameters
        ----------
        sums : float64 (n_batches,)
            Weighted sum of each batch's losses.
        penalties : float64 (n_batches,)
            Sum of the squares of the weights before each step.
        """
        with np.errstate(all="ignore"):  # where training diverges, the trainer says so
            losses = sums * self._means + 0.5 * self._penalty * penalties * self._means
            return float(np.sum(losses * self.sizes) / self.order.size)


def loss_divisor(loss: Loss, n_outputs: int) -> int:
    """What a row's loss is divided by: scikit-learn's squared error is the mean over outputs."""
    return n_outputs if loss == Loss.SQUARED_ERROR else 1


def loss_constants(loss: Loss, targets, order) -> np.ndarray:
    """What kernels leave out of the loss of each row of `order`: Poisson's is zero where the prediction is exact."""
    if loss != Loss.POISSON:
        return np.zeros(1)
    values = targets.values[order].astype(np.float64)
    return (xlogy(values, values) - values).sum(axis=1)
