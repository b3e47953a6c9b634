"""No public call reads or writes out of bounds, whatever the data look like.

Every table lies inside a larger memory whose other values are NaN, and the answers are compared with those for a plain
copy: an access beside the rows is seen even where it does not crash. Under ``NUMBA_BOUNDSCHECK=1`` each access of a
kernel is checked besides, and more examples are tried.
"""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nbnet import MLPClassifier, MLPRegressor
from nbnet.jit import BOUNDS_CHECKED
from nbnet.network import ACTIVATION_CODES

pytestmark = [
    pytest.mark.slow_without_jit,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The number of unique classes is greater than"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger than sample size"),
]
some_examples = settings(
    max_examples=300 if BOUNDS_CHECKED else 60,
    deadline=None,  # the first example compiles
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

# around the sizes where tiles, vectors and strides change
SIZES = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 129, 255, 256, 257]))
DTYPES = (np.float32, np.float64, np.int8, np.uint8, np.int64, np.bool_, ">f8")


def in_a_larger_memory(values, row_step, column_step, offset, order):
    """The same values as a view into NaN (or, where there is none, the largest value), with gaps of any size."""
    gaps = np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).max if values.dtype.kind in "iu" else True
    shape = [offset + n * abs(step) + 1 for n, step in zip(values.shape, (row_step, column_step), strict=True)]
    memory = np.full(shape, gaps, values.dtype, order=order)
    rows, columns = (
        slice(offset, offset + n * abs(step), abs(step))
        for n, step in zip(values.shape, (row_step, column_step), strict=True)
    )
    view = memory[rows, columns][:: np.sign(row_step), :: np.sign(column_step)]
    view[...] = values
    return view


def unaligned(values):
    """The same values one byte off the place where a processor would want them."""
    memory = np.full(values.nbytes + 1, 255, np.uint8)
    memory[1:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    return memory[1:].view(values.dtype).reshape(values.shape)


def odd_csr(values, generator, index_dtype):
    """CSR with entries in any order, some stored twice (as two addends), some stored zeros."""
    data, indices, indptr = [], [], [0]
    for row in values:
        stored = np.flatnonzero(row)
        entries = [(j, row[j]) for j in generator.permutation(stored)]
        if len(stored) and values.dtype.kind == "f":
            j = generator.choice(stored)
            entries = [(k, v / 2) if k == j else (k, v) for k, v in entries]
            entries.insert(int(generator.integers(len(entries) + 1)), (j, row[j] / 2))
        if generator.random() < 0.3:
            entries.append((int(generator.integers(len(row))), values.dtype.type(0)))
        indices += [j for j, _ in entries]
        data += [v for _, v in entries]
        indptr.append(len(indices))
    matrix = sp.csr_matrix(values.shape, dtype=values.dtype)
    matrix.data = np.array(data, values.dtype)
    matrix.indices, matrix.indptr = np.array(indices, index_dtype), np.array(indptr, index_dtype)
    return matrix


@st.composite
def tables(draw, n_columns=None, min_rows=1):
    """A table as users have them, and its values as a plain array."""
    n_rows = draw(st.one_of(st.integers(min_rows, 9), st.sampled_from([16, 17, 40])))
    n_columns = draw(SIZES) if n_columns is None else n_columns
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = generator.integers(-3 if n_rows else 0, 4, (n_rows, n_columns)).astype(float)
    values[generator.random(n_rows) < 0.3] = 0
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind in "ub":
        values = np.abs(values)
    values = values.astype(dtype)
    layout = draw(st.sampled_from(["c", "view", "view", "csr", "csc", "unaligned", "one row again", "read-only"]))
    if layout in ("csr", "csc") and (dtype.byteorder == ">" or not n_rows):
        layout = "c"  # scipy.sparse has no such matrices
    if layout == "view":
        steps = st.sampled_from([1, 2, 3, -1, -2])
        table = in_a_larger_memory(
            values, draw(steps), draw(steps), draw(st.integers(0, 3)), draw(st.sampled_from("CF"))
        )
    elif layout == "csr":
        table = odd_csr(values, generator, draw(st.sampled_from([np.int32, np.int64])))
    elif layout == "csc":
        table = sp.csc_array(values)
    elif layout == "unaligned":
        table = unaligned(values)
    elif layout == "one row again" and n_rows:
        table = np.broadcast_to(values[:1], values.shape)
        values = table.copy()
    else:
        table = values.copy()
        table.flags.writeable = layout != "read-only"
    return table, np.ascontiguousarray(values, values.dtype.newbyteorder("="))


@st.composite
def parameters(draw):
    """Settings of both estimators; networks are small and of odd sizes."""
    hidden = draw(st.lists(SIZES, max_size=3))
    solver = draw(st.sampled_from(["adam", "adamw", "sgd", "lbfgs"]))
    return {
        "hidden_layer_sizes": tuple(hidden),
        "activation": draw(st.sampled_from(sorted(ACTIVATION_CODES))),
        "solver": solver,
        "batch_size": draw(st.one_of(st.just("auto"), st.integers(1, 20))),
        "dropout": draw(st.sampled_from([0.0, 0.4])),
        "max_grad_norm": draw(st.sampled_from([None, 0.5])),
        "dtype": draw(st.sampled_from([None, "float32", "float64"])),
        "n_jobs": draw(st.sampled_from([1, 2, 3])),
        "shuffle": draw(st.booleans()),
        "learning_rate_init": 1e-3,
        "max_iter": 2,
        "random_state": 0,
    }


def labels_for(kind, n_rows):
    numbers = np.arange(n_rows)
    if kind == "multilabel":
        return np.stack([numbers % 2, numbers % 3 == 0, numbers % 5 == 0], axis=1).astype(int)
    return numbers % {"two": 2, "three": 3, "many": 37}[kind]


@some_examples
@given(tables(), parameters(), st.sampled_from(["two", "three", "many", "multilabel"]), st.data())
def test_classifier(given_table, settings_of_both, kind, data):
    table, plain = given_table
    y = labels_for(kind, table.shape[0])
    sparse_or_dense = data.draw(tables(n_columns=table.shape[1]), label="rows to predict")
    weights = data.draw(st.sampled_from([None, 1.0 + np.arange(len(y)) % 3]), label="weights")
    estimator = MLPClassifier(**settings_of_both).fit(table, y, weights, X_val=table, y_val=y)
    twin = MLPClassifier(**{**settings_of_both, "n_jobs": 1}).fit(plain, y, weights, X_val=plain, y_val=y)
    assert_array_equal(estimator.params_, twin.params_)
    assert estimator.history_["val_loss"] == twin.history_["val_loss"]
    probabilities = estimator.predict_proba(sparse_or_dense[0])
    assert np.isfinite(probabilities).all()
    assert_array_equal(probabilities, twin.predict_proba(sparse_or_dense[1]))
    assert len(estimator.predict(sparse_or_dense[0])) == len(probabilities)
    if settings_of_both["solver"] != "lbfgs":
        first = table.shape[0] // 2 + 1
        estimator.partial_fit(table[:first], y[:first])
        assert_array_equal(estimator.params_, twin.partial_fit(plain[:first], y[:first]).params_)


@some_examples
@given(
    tables(),
    parameters(),
    st.sampled_from(["squared_error", "poisson", "huber", "quantile"]),
    st.sampled_from([0, 2, 17]),
    st.booleans(),
    st.data(),
)
def test_regressor(given_table, settings_of_both, loss, n_outputs, scaled, data):
    table, plain = given_table
    shape = (table.shape[0], n_outputs) if n_outputs else table.shape[0]
    y = in_a_larger_memory(np.ones((table.shape[0], max(n_outputs, 1))), 2, 3, 1, "F").reshape(shape)
    y = y + np.arange(table.shape[0]).reshape((-1,) + (1,) * (y.ndim - 1)) % 3
    if scaled and not sp.issparse(table):
        settings_of_both = {**settings_of_both, "input_scaling": "robust"}
    other, plain_other = data.draw(tables(n_columns=table.shape[1]), label="rows to predict")
    if sp.issparse(other) and "input_scaling" in settings_of_both:
        other = other.toarray(order="F")
    estimator = MLPRegressor(loss, **settings_of_both).fit(table, y)
    twin = MLPRegressor(loss, **{**settings_of_both, "n_jobs": 1}).fit(plain, y)
    assert_array_equal(estimator.params_, twin.params_)
    predictions = estimator.predict(other)
    assert predictions.shape == ((other.shape[0], n_outputs) if n_outputs else (other.shape[0],))
    assert np.isfinite(predictions).all()
    assert_array_equal(predictions, twin.predict(plain_other))


@some_examples
@given(SIZES, parameters(), st.data())
def test_partial_fit_with_batches_of_any_size(n_columns, settings_of_both, data):
    """No rows at all are an error that changes nothing."""
    settings_of_both = {**settings_of_both, "solver": "adam", "batch_size": "auto"}
    estimator = MLPClassifier(**settings_of_both)
    twin = MLPClassifier(**{**settings_of_both, "n_jobs": 1})
    for _ in range(3):
        table, values = data.draw(tables(n_columns=n_columns, min_rows=0), label="batch")
        y = np.arange(table.shape[0]) % 2
        if len(y) == 0:
            for call in (lambda: estimator.partial_fit(table, y, classes=[0, 1]), lambda: estimator.predict(table)):  # noqa: B023
                with pytest.raises(ValueError):
                    call()
            continue
        estimator.partial_fit(table, y, classes=[0, 1])
        assert_array_equal(estimator.params_, twin.partial_fit(values, y, classes=[0, 1]).params_)
