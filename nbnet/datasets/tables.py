"""Tables that ship with the package: one gzip CSV and one description a set, one reader for all."""

from __future__ import annotations

import csv
import gzip
from importlib import resources
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch


class Table(NamedTuple):
    """What the reader has to know about one file.

    Attributes
    ----------
    name : str
        Stem of ``data/<name>.csv.gz`` and ``descr/<name>.rst``.
    target : str
        Column that holds the answer.
    target_names : tuple of str
        Names of the classes 0, 1.
    positive : str or int
        Class 1: the rows whose target equals this string, or is at least this number.
    dropped : tuple of str
        Columns left out: identifiers, and columns that give the answer away.
    """

    name: str
    target: str
    target_names: tuple[str, str]
    positive: str | int
    dropped: tuple[str, ...] = ()


GERMAN_CREDIT = Table("german_credit", "class", ("good", "bad"), positive="bad")
AI4I2020 = Table(
    "ai4i2020",
    "Machine failure",
    ("no failure", "failure"),
    positive=1,
    dropped=("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"),
)
STUDENT_PERFORMANCE = Table("student_performance", "G3", ("fail", "pass"), positive=10, dropped=("G1", "G2"))


def load_german_credit(*, return_X_y: bool = False, as_frame: bool = False):
    """Load the German credit data (finance, classification): is a loan a good or a bad risk?

    1,000 rows, 7 numeric and 13 categorical columns, 30 % bad.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return pandas objects, categorical columns with dtype ``category``. Needs pandas.
        Otherwise ``data`` is an array of dtype object that holds numbers and strings, as from
        :func:`sklearn.datasets.fetch_openml`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch` or tuple of (data, target)
        With the attributes `data`, `target` (int64; index into `target_names`), `frame` (None unless
        ``as_frame=True``), `feature_names`, `target_names`, `numeric_features` and `categorical_features`
        (column numbers, for :class:`~sklearn.compose.ColumnTransformer`), `DESCR` and `filename`.

    Examples
    --------
    >>> from nbnet.datasets import load_german_credit
    >>> X, y = load_german_credit(return_X_y=True)
    >>> X.shape, y.mean().item()
    ((1000, 20), 0.3)
    """
    return _load(GERMAN_CREDIT, return_X_y=return_X_y, as_frame=as_frame)


def load_ai4i2020(*, return_X_y: bool = False, as_frame: bool = False):
    """Load the AI4I 2020 predictive maintenance data (manufacturing, classification): does the machine fail?

    10,000 rows, 5 numeric columns and 1 categorical one, 3.4 % failures. Identifiers and the five columns that name
    the kind of failure, and so give the answer away, are left out.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return pandas objects, categorical columns with dtype ``category``. Needs pandas.
        Otherwise ``data`` is an array of dtype object that holds numbers and strings, as from
        :func:`sklearn.datasets.fetch_openml`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch` or tuple of (data, target)
        With the attributes `data`, `target` (int64; index into `target_names`), `frame` (None unless
        ``as_frame=True``), `feature_names`, `target_names`, `numeric_features` and `categorical_features`
        (column numbers, for :class:`~sklearn.compose.ColumnTransformer`), `DESCR` and `filename`.

    Examples
    --------
    >>> from nbnet.datasets import load_ai4i2020
    >>> X, y = load_ai4i2020(return_X_y=True)
    >>> X.shape, y.sum().item()
    ((10000, 6), 339)
    """
    return _load(AI4I2020, return_X_y=return_X_y, as_frame=as_frame)


def load_student_performance(*, return_X_y: bool = False, as_frame: bool = False):
    """Load the student performance data (education, classification): does the student pass Portuguese?

    649 rows, 13 numeric and 17 categorical columns, 85 % pass. The target is ``G3 >= 10``; the earlier grades G1 and
    G2, which all but give it away, are left out.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return pandas objects, categorical columns with dtype ``category``. Needs pandas.
        Otherwise ``data`` is an array of dtype object that holds numbers and strings, as from
        :func:`sklearn.datasets.fetch_openml`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch` or tuple of (data, target)
        With the attributes `data`, `target` (int64; index into `target_names`), `frame` (None unless
        ``as_frame=True``), `feature_names`, `target_names`, `numeric_features` and `categorical_features`
        (column numbers, for :class:`~sklearn.compose.ColumnTransformer`), `DESCR` and `filename`.

    Examples
    --------
    >>> from nbnet.datasets import load_student_performance
    >>> X, y = load_student_performance(return_X_y=True)
    >>> X.shape, y.sum().item()
    ((649, 30), 549)
    """
    return _load(STUDENT_PERFORMANCE, return_X_y=return_X_y, as_frame=as_frame)


def _load(table: Table, *, return_X_y: bool, as_frame: bool):
    columns = _read_columns(table)
    answer = columns.pop(table.target)
    is_positive = answer == table.positive if isinstance(table.positive, str) else answer >= table.positive
    target = is_positive.astype(np.int64)
    for name in table.dropped:
        del columns[name]
    frame = None
    if as_frame:
        frame, data, target = _as_frame(table, columns, target)
    else:
        data = _as_array(columns)
    if return_X_y:
        return data, target
    is_categorical = [values.dtype.kind == "U" for values in columns.values()]
    return Bunch(
        data=data,
        target=target,
        frame=frame,
        feature_names=list(columns),
        target_names=list(table.target_names),
        numeric_features=[i for i, categorical in enumerate(is_categorical) if not categorical],
        categorical_features=[i for i, categorical in enumerate(is_categorical) if categorical],
        DESCR=_resource("descr", f"{table.name}.rst").read_text(encoding="utf-8"),
        filename=f"{table.name}.csv.gz",
        data_module="nbnet.datasets.data",
    )


def _resource(*parts: str):
    return resources.files("nbnet.datasets").joinpath(*parts)


def _read_columns(table: Table) -> dict[str, np.ndarray]:
    """Columns by name: int64 or float64 where every entry is a number, strings otherwise."""
    packed = _resource("data", f"{table.name}.csv.gz").read_bytes()
    header, *rows = csv.reader(gzip.decompress(packed).decode("utf-8").splitlines())
    return {name: _parse(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}


def _parse(entries: tuple[str, ...]) -> np.ndarray:
    values = np.array(entries)
    for dtype in (np.int64, np.float64):
        try:
            return values.astype(dtype)
        except ValueError:
            continue
    return values


def _as_array(columns: dict[str, np.ndarray]) -> np.ndarray:
    """float64 when all columns are numbers, otherwise object with Python numbers and strings."""
    if all(values.dtype.kind != "U" for values in columns.values()):
        return np.column_stack(list(columns.values())).astype(np.float64)
    return np.column_stack([values.astype(object) for values in columns.values()])


def _as_frame(table: Table, columns: dict[str, np.ndarray], target: np.ndarray):
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("as_frame=True needs pandas; install it or pass as_frame=False.") from error
    data = pd.DataFrame(
        {name: pd.Categorical(values) if values.dtype.kind == "U" else values for name, values in columns.items()}
    )
    target = pd.Series(target, name=table.target)
    return pd.concat([data, target], axis=1), data, target
