"""The shipped tables and texts: shapes, types, licenses, and the same content in every form."""

import builtins

import numpy as np
import pytest

from nbnet import datasets

# loader, shape, rows of class 1, categorical columns, class names
TABLES = [
    ("load_german_credit", (1000, 20), 300, 13, ["good", "bad"]),
    ("load_ai4i2020", (10_000, 6), 339, 1, ["no failure", "failure"]),
    ("load_student_performance", (649, 30), 549, 17, ["fail", "pass"]),
]
LOADERS = [name for name, *_ in TABLES]


@pytest.mark.parametrize(("name", "shape", "n_positive", "n_categorical", "target_names"), TABLES)
def test_bunch(name, shape, n_positive, n_categorical, target_names):
    bunch = getattr(datasets, name)()
    assert bunch.data.shape == shape
    assert bunch.data.dtype == object
    assert bunch.target.dtype == np.int64
    assert bunch.target.sum() == n_positive
    assert bunch.target_names == target_names
    assert len(bunch.feature_names) == shape[1]
    assert len(bunch.categorical_features) == n_categorical
    assert sorted(bunch.numeric_features + bunch.categorical_features) == list(range(shape[1]))
    assert bunch.frame is None


@pytest.mark.parametrize("name", LOADERS)
def test_columns_are_numbers_or_strings(name):
    bunch = getattr(datasets, name)()
    assert np.isfinite(bunch.data[:, bunch.numeric_features].astype(np.float64)).all()
    assert all(isinstance(entry, str) for entry in bunch.data[:, bunch.categorical_features].ravel())


@pytest.mark.parametrize("name", LOADERS)
def test_return_X_y_is_data_and_target(name):
    load = getattr(datasets, name)
    bunch = load()
    X, y = load(return_X_y=True)
    np.testing.assert_array_equal(X, bunch.data)
    np.testing.assert_array_equal(y, bunch.target)


@pytest.mark.parametrize("name", LOADERS)
def test_frame_holds_the_same_values(name):
    pd = pytest.importorskip("pandas")
    load = getattr(datasets, name)
    bunch, framed = load(), load(as_frame=True)
    assert list(framed.data.columns) == bunch.feature_names
    assert framed.frame.shape == (bunch.data.shape[0], bunch.data.shape[1] + 1)
    np.testing.assert_array_equal(framed.data.to_numpy(dtype=object), bunch.data)
    np.testing.assert_array_equal(framed.target, bunch.target)
    is_category = [isinstance(dtype, pd.CategoricalDtype) for dtype in framed.data.dtypes]
    assert list(np.flatnonzero(is_category)) == bunch.categorical_features
    X, y = load(return_X_y=True, as_frame=True)
    assert X.equals(framed.data)
    assert y.equals(framed.target)


@pytest.mark.parametrize("name", LOADERS)
def test_license_and_source_are_stated(name):
    description = getattr(datasets, name)().DESCR
    for part in ("CC BY 4.0", "https://doi.org/", "https://archive.ics.uci.edu/dataset/", "Changes:"):
        assert part in description


def test_columns_that_give_the_answer_away_are_left_out():
    assert not {"G1", "G2", "G3"} & set(datasets.load_student_performance().feature_names)
    assert not {"UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"} & set(datasets.load_ai4i2020().feature_names)


def test_columns_of_numbers_only_give_float64():
    array = datasets.tables._as_array({"a": np.array([1, 2]), "b": np.array([0.5, 1.5])})
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, [[1.0, 0.5], [2.0, 1.5]])


def test_as_frame_without_pandas_says_so(monkeypatch):
    real_import = builtins.__import__

    def no_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    with pytest.raises(ImportError, match="as_frame=True needs pandas"):
        datasets.load_german_credit(as_frame=True)
    assert datasets.load_german_credit().data.shape == (1000, 20)


# loader, texts, texts of each class, class names, what the license asks to be said
TEXTS = [
    ("load_sms_spam", 5160, [4518, 642], ["ham", "spam"], ["CC BY 4.0", "https://doi.org/", "Almeida"]),
    (
        "load_poetry_genre_zh",
        1600,
        [400] * 4,
        ["song_ci", "song_shi", "tang_shi", "yuan_qu"],
        ["Copyright (c) 2016 JackeyGao", "The above copyright notice", "WITHOUT WARRANTY"],
    ),
]


@pytest.mark.parametrize(("name", "n_texts", "counts", "target_names", "stated"), TEXTS)
def test_texts(name, n_texts, counts, target_names, stated):
    load = getattr(datasets, name)
    bunch = load()
    assert bunch.data.shape == bunch.target.shape == (n_texts,)
    assert bunch.data.dtype == object and bunch.target.dtype == np.int64
    assert all(isinstance(text, str) and text == text.strip() != "" for text in bunch.data)
    assert np.bincount(bunch.target).tolist() == counts
    assert bunch.target_names == target_names
    assert len(set(bunch.data)) == n_texts
    for part in (*stated, "Changes:"):
        assert part in bunch.DESCR
    X, y = load(return_X_y=True)
    np.testing.assert_array_equal(X, bunch.data)
    np.testing.assert_array_equal(y, bunch.target)
    shares = np.bincount(y[4::5]) / len(y[4::5])
    np.testing.assert_allclose(shares, np.array(counts) / n_texts, atol=0.001)
