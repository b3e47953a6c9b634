"""Small real data sets with open licenses, shipped inside the package."""

from .tables import load_ai4i2020, load_german_credit, load_student_performance

__all__ = ["load_ai4i2020", "load_german_credit", "load_student_performance"]
