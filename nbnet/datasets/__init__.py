"""Small real data sets with open licenses, shipped inside the package."""

from .tables import load_ai4i2020, load_german_credit, load_student_performance
from .texts import load_poetry_genre_zh, load_sms_spam

__all__ = [
    "load_ai4i2020",
    "load_german_credit",
    "load_poetry_genre_zh",
    "load_sms_spam",
    "load_student_performance",
]
