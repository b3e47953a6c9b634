"""The one number of each row that is explained: an output of the network, as a logit or as a probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit, softmax

from ..cpu.tree import Tree
from ..network import Loss


class Explained(NamedTuple):
    """A function ``(z, target) -> (value (n,), slopes (n, n_outputs))`` of the last layer's output, and its inputs.

    Attributes
    ----------
    function : callable
    target : int64 (n,)
        Number of each row's output.
    """

    function: Callable
    target: np.ndarray

    def of(self, z: np.ndarray, rows=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Value and its derivative by z; `rows` says of which rows z is."""
        return self.function(z, self.target[rows])


def function_of(estimator, output: str) -> Callable:
    """What to explain of a fitted estimator: ``output="logit"`` or ``"probability"``."""
    loss, tree = estimator._loss, getattr(estimator, "_tree", None)
    is_probability = output == "probability"
    if tree is not None:
        return Paths(tree, is_probability)
    if loss == Loss.SOFTMAX_CROSS_ENTROPY:
        return share if is_probability else chosen
    if loss == Loss.SIGMOID_CROSS_ENTROPY:
        if estimator._multilabel:
            return label_probability if is_probability else chosen
        if estimator.network_.layers["n_out"][-1] == 1:
            return two_class_probability if is_probability else two_class_logit
        return share_of_labels if is_probability else chosen
    return mean_of_counts if is_probability and loss == Loss.POISSON else chosen


def _one_hot(z, target):
    return (np.arange(z.shape[1]) == target[:, np.newaxis]).astype(np.float64)


def chosen(z, target):
    """``z[target]``"""
    return np.take_along_axis(z, target[:, np.newaxis], axis=1)[:, 0], _one_hot(z, target)


def share(z, target):
    """``softmax(z)[target]``"""
    p = softmax(z, axis=1)
    value = np.take_along_axis(p, target[:, np.newaxis], axis=1)
    return value[:, 0], value * (_one_hot(z, target) - p)


def label_probability(z, target):
    """``logistic(z[target])``"""
    value = expit(chosen(z, target)[0])
    return value, (value * (1.0 - value))[:, np.newaxis] * _one_hot(z, target)


def two_class_logit(z, target):
    """``z`` for the second class, ``-z`` for the first"""
    sign = 2.0 * target[:, np.newaxis] - 1.0
    return (sign * z)[:, 0], sign


def two_class_probability(z, target):
    """``logistic(z)`` for the second class, ``logistic(-z)`` for the first"""
    sign = 2.0 * target[:, np.newaxis] - 1.0
    value = expit(sign * z)
    return value[:, 0], sign * value * (1.0 - value)


def share_of_labels(z, target):
    """``logistic(z[target]) / sum of logistic(z)``: one against all others, where exactly one is right"""
    p = expit(z)
    total = p.sum(axis=1, keepdims=True)
    value = np.take_along_axis(p, target[:, np.newaxis], axis=1) / total
    return value[:, 0], p * (1.0 - p) * (_one_hot(z, target) - value) / total


def mean_of_counts(z, target):
    """``exp(z[target])``"""
    value = np.exp(chosen(z, target)[0])
    return value, value[:, np.newaxis] * _one_hot(z, target)


class Paths:
    """A class's probability in a hierarchical softmax, or its logarithm; z are the outputs of the units."""

    def __init__(self, tree: Tree, is_probability: bool):
        self.tree, self.is_probability = tree, is_probability

    def __call__(self, z, target):
        value, slopes = np.zeros(len(z)), np.zeros_like(z)
        for i, label in enumerate(target):
            path = slice(self.tree.starts[label], self.tree.starts[label + 1])
            units, signs = self.tree.units[path], 2.0 * self.tree.turns[path] - 1.0
            value[i] = log_expit(signs * z[i, units]).sum()
            slopes[i, units] = signs * expit(-signs * z[i, units])
        if self.is_probability:
            value = np.exp(value)
            slopes *= value[:, np.newaxis]
        return value, slopes
