"""Why a network says what it says: the share of each feature, token or pixel in an output."""

from .attributions import Attributions, attributions

__all__ = ["Attributions", "attributions"]
