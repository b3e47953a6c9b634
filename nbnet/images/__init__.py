"""Preparing images: cut, resize, convert and normalize them, read them from files, change them at random."""

from .augmentation import Augmentation, augment_images, augment_rule
from .files import load_images
from .preprocessor import ImagePreprocessor

__all__ = ["Augmentation", "ImagePreprocessor", "augment_images", "augment_rule", "load_images"]
