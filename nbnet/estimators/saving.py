"""The method `save` of all estimators."""

from __future__ import annotations


class SavingMixin:
    """An estimator that a model file can hold."""

    @property
    def _trained(self):
        """The estimator that has the weights and curves."""
        return self

    def save(self, path) -> None:
        """Write the fitted estimator to a file that `nbnet.load` reads.

        The file has the weights, and all else that predictions need, as arrays and text in the format safetensors: no
        pickle, no code. What only training needs beyond the weights, the optimizer's moments, is left out. The file
        is replaced as a whole: a crash leaves the old one or the new one.

        Parameters
        ----------
        path : path
            The file; ".safetensors" is a good ending.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For what no file can hold, such as an `analyzer` that is a function.
        OSError
            If the file cannot be written.
        """
        from .stored import save  # which builds on this module

        save(self, path)
