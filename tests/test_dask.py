"""Training over Dask collections: the partitions decide, not the workers; on threads, and on clusters of processes."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import nbnet
from tests.helpers import fit

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

import nbnet.dask as nd  # noqa: E402
from nbnet.dask import collections, rounds, statistics  # noqa: E402
from nbnet.estimators.scaling import InputScaler  # noqa: E402

SIZES = (70, 0, 31, 99)
SMALL = dict(hidden_layer_sizes=(8,), learning_rate="one_cycle", learning_rate_init=0.02, random_state=0)


@pytest.fixture(autouse=True)
def in_turn():
    """Tests without a cluster compute one task after another."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def data():
    """Rows whose second part with rows lacks class 2."""
    X, y = make_classification(sum(SIZES), 6, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    order = np.concatenate([np.flatnonzero(y != 2)[:31], np.flatnonzero(y == 2)])
    order = np.concatenate([order[31:101], order[:31], np.setdiff1d(np.arange(len(y)), order)])
    order = np.concatenate([order, np.setdiff1d(np.arange(len(y)), order)])
    X, y = X[order].astype(np.float32), y[order]
    assert 2 not in y[70:101]
    return X, y


def split(X, y, sizes=SIZES):
    return da.from_array(X, chunks=(sizes, *X.shape[1:])), da.from_array(y, chunks=(sizes,))


def digest(model):
    state = model.model_.params_.tobytes() + np.array(model.loss_curve_).tobytes() + str(model.classes_).encode()
    return hashlib.sha256(state).hexdigest()


# ---------------------------------------------------------------- rounds


def test_changes_are_averaged_by_rows_in_order():
    parts = [(3, 1.0, [1.0, 2.0], [4.0]), None, (1, 5.0, [-3.0, 2.0], [0.0])]
    changes = [part and rounds.Change(*part[:2], *map(np.array, part[2:])) for part in parts]
    mean = rounds.mean_change(changes)
    assert (mean.weight, mean.loss) == (4, 2.0)
    assert rounds.mean_change([None]) is None
    assert (mean.change.tolist(), mean.moments.tolist()) == ([0.0, 2.0], [3.0])


def test_outer_step_is_nesterovs():
    outer = rounds.OuterStep(np.zeros(2), 0.5, 0.5, np.array([False, True]))
    outer.apply(np.array([1.0, 1.0]))  # v = 1, step = 0.5 (1 + 0.5)
    outer.apply(np.array([2.0, 2.0]))  # v = 2.5, step = 0.5 (2 + 1.25)
    assert outer.params.tolist() == [0.75 + 1.625, 3.0]


@pytest.mark.parametrize("local_epochs", [1, 2, 0.25])
def test_learning_rates_go_on_from_round_to_round(data, monkeypatch, local_epochs):
    seen = []
    original = nbnet.MLPClassifier.partial_fit

    def watched(self, X, y, sample_weight):
        result = original(self, X, y, sample_weight)
        seen.append(self.history_["learning_rate"][-1])
        return result

    monkeypatch.setattr(nbnet.MLPClassifier, "partial_fit", watched)
    X, y = data
    nd.MLPClassifier(**SMALL, max_iter=4, batch_size=10, local_epochs=local_epochs).fit(*split(X, y, (200,)))
    rates = nbnet.MLPClassifier(**SMALL, max_iter=4, batch_size=10).fit(X, y).history_["learning_rate"]
    np.testing.assert_allclose(seen[len(seen) // 4 - 1 :: len(seen) // 4], rates)


def test_training_ends_where_the_loss_stands_still(data):
    model = nd.MLPClassifier(**{**SMALL, "learning_rate": "constant"}, max_iter=50, tol=10.0, n_iter_no_change=2)
    assert model.fit(*split(*data)).n_iter_ == 4


def test_warns_at_max_iter_and_at_divergence(data):
    model = nd.MLPClassifier(**{**SMALL, "learning_rate": "constant"}, max_iter=1, local_epochs=1)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(1\)"):
        model.fit(*split(*data))
    model = nd.MLPClassifier(**SMALL, max_iter=3, outer_learning_rate=1e300)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(*split(*data))
    assert not hasattr(model, "model_")


def test_batches_of_all_partitions_together_are_those_of_one_machine(data, monkeypatch):
    seen = []
    original = nbnet.MLPClassifier.partial_fit
    monkeypatch.setattr(
        nbnet.MLPClassifier,
        "partial_fit",
        lambda self, X, y, sample_weight: seen.append(self.batch_size) or original(self, X, y),
    )
    for batch_size in ("auto", 40):
        nd.MLPClassifier(**SMALL, max_iter=1, local_epochs=1, batch_size=batch_size).fit(*split(*data))
    assert sorted(seen[:3]) == [31, 66, 66]
    assert sorted(seen[3:]) == [31, 40, 40]


@pytest.mark.parametrize(
    "settings", [{"solver": "adam"}, {"solver": "sgd", "learning_rate": "constant"}, {"solver": "adamw", "alpha": 0.1}]
)
def test_one_partition_trains_as_one_machine_does(data, settings):
    X, y = data
    settings = {**SMALL, "max_iter": 4, "batch_size": 25, "shuffle": False, "tol": 0, **settings}
    one = fit(nbnet.MLPClassifier(**settings), X, y)
    many = fit(nd.MLPClassifier(**settings, local_epochs=1, outer_momentum=0.0), *split(X, y, (200,))).model_
    # changes pass through differences and sums
    np.testing.assert_allclose(many.params_, one.params_, atol=1e-5)
    np.testing.assert_allclose(many.loss_curve_, one.loss_curve_, rtol=1e-4)


def test_parts_of_an_epoch_have_each_row_once():
    pace = rounds.Pace.of(1 / 3)
    assert pace == (1, 3)
    for n_rows in (0, 2, 10):
        for epoch in (0, 5):
            parts = [pace.rows(7, 3 * epoch + part, n_rows) for part in range(3)]
            assert sorted(np.concatenate(parts)) == list(range(n_rows))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert not np.array_equal(pace.rows(7, 0, 10), pace.rows(7, 3, 10))
    assert rounds.Pace.of(2) == (2, 1)
    for local_epochs in (0.3, 0.75):
        with pytest.raises(ValueError, match=f"one over an integer where it is below 1, got {local_epochs}"):
            rounds.Pace.of(local_epochs)


def test_rounds_of_a_part_record_one_entry_an_epoch(data, monkeypatch):
    X, y = data[0][:5], data[1][:5]
    model = nd.MLPClassifier(**SMALL, max_iter=3, local_epochs=0.2)
    assert len(model.fit(*split(X, y, (1, 4)), classes=[0, 1, 2]).loss_curve_) == 3  # most parts have no row
    assert model.model_.t_ == 15
    calls, original = [], collections.compute
    monkeypatch.setattr(collections, "compute", lambda tasks, client: calls.append(1) or original(tasks, client))
    nd.MLPClassifier(**SMALL, max_iter=3, local_epochs=0.5).fit(*split(*data))
    assert len(calls) == 1 + 6


# ---------------------------------------------------------------- what partitions say together


def test_moments_of_parts_are_those_of_the_whole(data, monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK_ROWS", 7)
    X = data[0] + 1000
    weights = np.random.default_rng(0).integers(1, 3, len(X)).astype(float)
    parts = [
        statistics.Moments.of(*part) for part in zip(np.split(X, [70, 101]), np.split(weights, [70, 101]), strict=True)
    ]
    merged = parts[0].plus(parts[1]).plus(parts[2])
    rows = X.repeat(weights.astype(int), axis=0)
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(merged.deviation, rows.std(axis=0, dtype=np.float64), rtol=1e-9)


@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_input_scaling_is_that_of_all_rows(data, kind):
    X, y = data[0].copy(), data[1]
    X[:, 3] = 7
    model = nd.MLPClassifier(**SMALL, max_iter=1, input_scaling=kind).fit(*split(X, y)).model_
    expected = InputScaler.fit(kind, X, np.arange(len(X)), np.ones(len(X)))
    np.testing.assert_allclose(model.input_center_, expected.center, atol=1e-7)
    np.testing.assert_allclose(model.input_scale_, expected.scale)


def test_classes_of_all_partitions_and_their_weights(data):
    X, y = data
    names = np.array(["a", "bb", "ccc"])[y]
    model = nd.MLPClassifier(**SMALL, max_iter=8, class_weight="balanced", outer_momentum=0.5).fit(*split(X, names))
    assert model.classes_.tolist() == ["a", "bb", "ccc"]
    assert model.model_.class_weight == "balanced"
    model = nd.MLPClassifier(**SMALL, max_iter=8).fit(*split(X, y), classes=[0, 1, 2, 5])
    assert model.predict_proba(X).shape == (200, 4)
    with pytest.raises(ValueError, match=r"not in `classes`=\[0, 1\]: \[2\]"):
        model.fit(*split(X, y), classes=[0, 1])


def test_balanced_weights_reach_the_partitions(data):
    X, y = data
    weights = {k: len(y) / (3 * np.sum(y == k)) for k in range(3)}
    one, two = (
        nd.MLPClassifier(**SMALL, max_iter=2, class_weight=class_weight).fit(*split(X, y))
        for class_weight in ("balanced", weights)
    )
    assert digest(one) == digest(two)
    assert digest(one) != digest(nd.MLPClassifier(**SMALL, max_iter=2).fit(*split(X, y)))


def test_a_weight_of_zero_is_absence(data):
    X, y = data
    weights = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    kept = np.flatnonzero(weights)
    sizes = tuple(int(np.sum((kept >= a) & (kept < b))) for a, b in ((0, 70), (70, 70), (70, 101), (101, 200)))
    dX, dy = split(X, y)
    for scaling in ("standard", "robust"):
        model = nd.MLPClassifier(**SMALL, max_iter=1, input_scaling=scaling, class_weight="balanced")
        whole = clone(model).fit(dX, dy, sample_weight=da.from_array(weights, chunks=90))
        some = clone(model).fit(*split(X[kept], y[kept], sizes), sample_weight=split(X[kept], weights[kept], sizes)[1])
        assert digest(whole) == digest(some)
        expected = InputScaler.fit(scaling, X, np.arange(len(X)), weights)
        np.testing.assert_allclose(whole.model_.input_center_, expected.center, atol=1e-6)
    unweighted = clone(model).fit(*split(X[kept], y[kept], sizes))
    assert digest(unweighted) != digest(some)


@pytest.mark.slow_without_jit
def test_weights_of_images_and_of_regression(data):
    X, y = data
    images, dy = da.from_array(X.reshape(-1, 2, 3), chunks=(SIZES, 2, 3)), split(X, y)[1]
    weights = np.where(y == 1, 2.0, 1.0)
    model = nd.ConvClassifier((4,), (), max_iter=1, learning_rate="cosine", random_state=0)
    model.fit(images, dy, sample_weight=split(X, weights)[1])
    one = nbnet.ConvClassifier((4,), (), max_iter=1, learning_rate="cosine").fit(X.reshape(-1, 2, 3), y, weights)
    np.testing.assert_allclose(model.model_.channel_mean_, one.channel_mean_, rtol=1e-6)
    np.testing.assert_allclose(model.model_.channel_deviation_, one.channel_deviation_, rtol=1e-6)
    regressor = nd.MLPRegressor(**SMALL, max_iter=2)
    heavy = clone(regressor).fit(*split(X, X[:, 0]), sample_weight=split(X, weights)[1])
    assert digest_of_values(heavy) != digest_of_values(clone(regressor).fit(*split(X, X[:, 0])))


def digest_of_values(model):
    return model.model_.params_.tobytes()


def test_validation_rows_are_scored_after_each_epoch(data):
    X, y = data
    settings = {**SMALL, "max_iter": 3, "input_scaling": "standard", "class_weight": "balanced"}
    model = nd.MLPClassifier(**settings).fit(*split(X, y), X_val=X[:50], y_val=y[:50])
    assert len(model.history_["val_loss"]) == len(model.history_["val_score"]) == 3
    assert model.history_["val_score"][-1] == model.score(X[:50], y[:50])
    weights = np.array([len(y) / (3 * np.sum(y == k)) for k in range(3)])[y[:50]]
    of_truth = model.predict_proba(X[:50])[np.arange(50), y[:50]]
    np.testing.assert_allclose(
        model.history_["val_loss"][-1], np.average(-np.log(of_truth), weights=weights), rtol=1e-5
    )
    assert digest(model) == digest(nd.MLPClassifier(**settings).fit(*split(X, y)))
    with pytest.raises(ValueError, match="y_val was not provided"):
        model.fit(*split(X, y), X_val=X)


# ---------------------------------------------------------------- collections


def test_a_list_of_delayed_partitions(data):
    X, y = data
    cuts = [slice(a, b) for a, b in ((0, 70), (70, 70), (70, 101), (101, 200))]
    pieces, labels = [dask.delayed(X[cut]) for cut in cuts], [dask.delayed(y[cut]) for cut in cuts]
    model = nd.MLPClassifier(**SMALL, max_iter=2)
    fitted = clone(model).fit(pieces, labels)
    assert digest(fitted) == digest(clone(model).fit(*split(X, y)))
    np.testing.assert_array_equal(fitted.predict(pieces).compute(), fitted.model_.predict(X))
    assert fitted.score(pieces, labels) == fitted.model_.score(X, y)


def test_predictions_are_lazy_and_equal_those_in_memory(data):
    X, y = data
    model = nd.MLPClassifier(**SMALL, max_iter=5).fit(*split(X, y))
    dX, dy = split(X, y)
    for method in ("predict", "predict_proba"):
        lazy, expected = getattr(model, method)(dX), getattr(model.model_, method)(X)
        assert isinstance(lazy, da.Array)
        assert (lazy.shape, lazy.dtype, lazy.chunks[0]) == (expected.shape, expected.dtype, (70, 31, 99))
        np.testing.assert_array_equal(lazy.compute(), expected)
        np.testing.assert_array_equal(getattr(model, method)(X), expected)
    assert model.score(dX, dy) == model.score(X, y) == model.model_.score(X, y)


def test_columns_in_chunks_and_targets_in_other_chunks(data):
    X, y = data
    whole = nd.MLPClassifier(**SMALL, max_iter=2).fit(*split(X, y))
    pieces = da.from_array(X, chunks=(SIZES, (2, 4))), da.from_array(y, chunks=150)
    assert digest(nd.MLPClassifier(**SMALL, max_iter=2).fit(*pieces)) == digest(whole)
    assert whole.predict(pieces[0]).compute().shape == (200,)


def test_dataframes(data):
    dd = pytest.importorskip("dask.dataframe")
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcdef")).assign(label=y)
    frames = dd.from_pandas(frame, npartitions=3)
    model = nd.MLPClassifier(**SMALL, max_iter=2).fit(frames[list("abcdef")], frames["label"])
    assert model.feature_names_in_.tolist() == list("abcdef")
    predicted = model.predict(frames[list("abcdef")])
    np.testing.assert_array_equal(predicted.compute(), model.model_.predict(frame[list("abcdef")]))
    sizes = tuple(frames.map_partitions(len).compute())
    same = nd.MLPClassifier(**SMALL, max_iter=2).fit(*split(X, y, sizes))
    assert digest(model) == digest(same)
    assert model.score(frames[list("abcdef")], frames["label"]) == same.score(X, y)


def test_regression_with_two_outputs(data):
    X = data[0]
    Y = np.stack([X[:, 0], X[:, 1] - X[:, 2]], axis=1)
    model = nd.MLPRegressor(**SMALL, max_iter=20, outer_momentum=0.5)
    model.fit(da.from_array(X, chunks=(SIZES, 6)), da.from_array(Y, chunks=(SIZES, 2)))
    dX = da.from_array(X, chunks=(50, 6))
    np.testing.assert_array_equal(model.predict(dX).compute(), model.model_.predict(X))
    assert model.score(dX, Y) > 0.5
    one = nd.MLPRegressor(**SMALL, max_iter=2).fit(dX, da.from_array(Y[:, 0], chunks=50))
    assert one.predict(dX).shape == (200,)


@pytest.mark.slow_without_jit
def test_images(data):
    X, y = data
    images = np.abs(np.repeat(X, 6, axis=1)).reshape(-1, 6, 6, 1) * 40
    images = np.concatenate([images, 255 - images], axis=3).clip(0, 255).astype(np.uint8)
    chunks = (SIZES, 6, 6, 2)
    model = nd.ConvClassifier((4, "max_pool"), (5,), batch_norm=True, max_iter=2, random_state=0, outer_momentum=0.9)
    model.set_params(learning_rate="one_cycle").fit(da.from_array(images, chunks=chunks), split(X, y)[1])
    fitted, dX = model.model_, da.from_array(images, chunks=chunks)
    np.testing.assert_allclose(fitted.channel_mean_, images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(fitted.channel_deviation_, images.std(axis=(0, 1, 2)))
    assert all((norm.running_variance > 0).all() for norm in fitted.batch_norms_)
    np.testing.assert_array_equal(model.predict_proba(dX).compute(), fitted.predict_proba(images))
    assert model.transform(dX).shape == fitted.transform(images).shape == (200, 5)
    flat = nd.ConvClassifier((4,), (), image_shape=(6, 6, 2), normalize=False, max_iter=1, learning_rate="cosine")
    flat.fit(da.from_array(images.reshape(200, -1), chunks=(SIZES, 72)), split(X, y)[1])
    assert flat.model_.channel_mean_.tolist() == [0, 0]


@pytest.mark.slow_without_jit
def test_running_statistics_are_averaged_and_nothing_else(data):
    X, y = data
    images, dy = da.from_array(X.reshape(-1, 2, 3), chunks=(SIZES, 2, 3)), split(X, y)[1]
    plain, half = (
        nd.ConvClassifier(
            (4,), (), batch_norm=True, max_iter=1, learning_rate="cosine", random_state=0, local_epochs=1, **outer
        )
        .fit(images, dy)
        .model_.batch_norms_[0]
        for outer in (dict(outer_momentum=0.0), dict(outer_learning_rate=0.5))
    )
    np.testing.assert_array_equal(plain.running_mean, half.running_mean)
    np.testing.assert_array_equal(plain.running_variance, half.running_variance)
    assert not np.array_equal(plain.scale, half.scale)


def test_more_classes_than_a_table_of_numbers_is_taken_for():
    X, y = np.eye(40, dtype=np.float32).repeat(3, axis=0), np.arange(40).repeat(3)
    model = nd.MLPClassifier(**SMALL, max_iter=1).fit(*split(X, y, (60, 60)))
    assert model.model_.n_outputs_ == 40


def test_bags_are_read_as_lists():
    db = pytest.importorskip("dask.bag")
    bag = db.from_sequence(["a", "b", "c"], npartitions=2).map(str.upper)
    pieces, sizes = collections.pieces_of(bag)
    assert [collections.in_memory(piece.compute()) for piece in pieces] == [["A", "B"], ["C"]]
    assert np.isnan(sizes).all()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "parameters",
    [{"solver": "lbfgs"}, {"learning_rate": "adaptive"}, {"early_stopping": True}, {"warm_start": True}],
    ids=lambda parameters: next(iter(parameters)),
)
def test_parameters_that_rounds_do_not_have(data, parameters):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))}=.* is not available over partitions"):
        nd.MLPClassifier(**parameters).fit(*split(*data))


def test_errors_name_what_is_wrong(data):
    X, y = data
    dX, dy = split(X, y)
    model = nd.MLPClassifier(**SMALL, max_iter=1)
    with pytest.raises(TypeError, match="X must be a Dask array, bag or dataframe, got ndarray"):
        model.fit(X, dy)
    for local_epochs in (0, 1.5):
        with pytest.raises(ValueError, match="local_epochs"):
            nd.MLPClassifier(local_epochs=local_epochs).fit(dX, dy)
    with pytest.raises(TypeError, match="sample_weight must be a Dask array, bag or dataframe, got ndarray"):
        model.fit(dX, dy, sample_weight=np.ones(200))
    with pytest.raises(ValueError, match="X has 4 partitions and sample_weight has 1"):
        model.fit(dX, dy, sample_weight=da.ones(100, chunks=100))
    with pytest.raises(ValueError, match=r"sample_weight must be finite and at least 0, .* not in partition [023]"):
        model.fit(dX, dy, sample_weight=da.full(200, -1.0, chunks=(SIZES,)))
    with pytest.raises(ValueError, match=r"rows in X and sample_weight of shape \(\d+, 1\)"):
        model.fit(dX, dy, sample_weight=da.ones((200, 1), chunks=(SIZES, 1)))
    with pytest.raises(ValueError, match="X has 4 partitions and y has 2"):
        model.fit(dX[dX[:, 0] > -9], da.from_array(y, chunks=100))
    with pytest.raises(ValueError, match=r"Partition [23] has [39][19] rows in X and [58]0 in y"):
        model.fit(dX[dX[:, 0] > -9], da.from_array(y, chunks=((70, 0, 50, 80),)))
    with pytest.raises(ValueError, match=r"y must have one label a row, but a partition has the shape \(70, 3\)"):
        model.fit(dX[:70], da.from_array(np.eye(3, dtype=int)[y[:70]]))
    with pytest.raises(ValueError, match="0 sample"):
        model.fit(*split(X[:0], y[:0], (0, 0)))
    pieces = [dask.delayed(X[:50]), dask.delayed(X[50:100, :5])]
    ragged = da.concatenate([da.from_delayed(piece, (50, 6), X.dtype) for piece in pieces])
    with pytest.raises(ValueError, match=r"partition 1 of X have the shape \(5,\), those of partition 0 \(6,\)"):
        model.fit(ragged, da.from_array(y[:100], chunks=50))


def test_constructor_is_that_of_the_ordinary_estimator():
    model = nd.MLPClassifier((3,), "tanh", outer_momentum=0.3)
    assert model.get_params() == {
        **nbnet.MLPClassifier((3,), "tanh").get_params(),
        "local_epochs": 0.25,
        "outer_learning_rate": model.outer_learning_rate,
        "outer_momentum": 0.3,
    }
    assert repr(clone(model)) == repr(model)
    with pytest.raises(TypeError, match="hidden"):
        nd.MLPClassifier(hidden=3)


def test_the_fitted_model_needs_no_dask(data, tmp_path):
    X, y = data
    model = nd.MLPClassifier(**SMALL, max_iter=2).fit(*split(X, y)).model_
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps((model, X, model.predict_proba(X))))
    script = f"""
import pickle, sys
sys.modules["dask"] = sys.modules["distributed"] = None
model, X, expected = pickle.load(open({str(path)!r}, "rb"))
assert (model.predict_proba(X) == expected).all()
try:
    import nbnet.dask
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'nbnet.dask needs the package dask: pip install "nbnet[dask]".'


# ---------------------------------------------------------------- clusters of processes


@pytest.fixture
def cluster():
    """``cluster(n)``: a client of n processes of one thread each."""
    opened = []
    patient = {
        "distributed.comm.timeouts.connect": "300s",
        "distributed.comm.timeouts.tcp": "300s",
        "distributed.scheduler.worker-ttl": None,
        "distributed.scheduler.allowed-failures": 10,
        "distributed.nanny.environ.NUMBA_DISABLE_JIT": os.environ.get("NUMBA_DISABLE_JIT", "0"),
    }

    def start(n_workers):
        opened.append(
            distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=50,
                memory_limit=0,
            )
        )
        opened.append(distributed.Client(opened[-1], set_as_default=False, timeout="300s"))
        return opened[-1]

    with dask.config.set(patient):
        yield start
        for one in reversed(opened):
            one.close(timeout=60)


@pytest.mark.slow_without_jit
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_same_bits_for_any_number_of_workers_and_when_one_dies(data, cluster, monkeypatch):
    dX, dy = split(*data)
    table = nd.MLPClassifier(**SMALL, max_iter=4, dropout=0.1, input_scaling="standard", outer_momentum=0.5)
    table.set_params(local_epochs=1)
    words = ["sea ship sail", "law judge court", "bread butter salt"]
    texts, labels = [f"{words[label]} word{i // 9}" for i, label in enumerate(data[1][:40])], data[1][:40]
    cuts = [slice(0, 14), slice(14, 14), slice(14, 20), slice(20, 40)]
    pieces, classes = ([dask.delayed(part[cut]) for cut in cuts] for part in (texts, labels))
    text = nd.TextEmbeddingClassifier(8, max_iter=2, target_loss=None, local_epochs=0.5, random_state=0)
    cases = [(table, dX, dy, 3), (text, pieces, classes, 5)]  # X, y; call of `compute` in which a worker dies
    expected = [digest(clone(model).fit(X, y)) for model, X, y, _ in cases]
    for n_workers in (1, 2):
        client = cluster(n_workers)
        fitted = [clone(model).fit(X, y, client) for model, X, y, _ in cases]
        assert [digest(model) for model in fitted] == expected
    for model, X, in_memory in zip(fitted, (dX, pieces), (data[0], texts), strict=True):
        np.testing.assert_array_equal(client.compute(model.predict(X)).result(), model.model_.predict(in_memory))

    client, calls, persisted = cluster(4), [], []
    persist = collections.persist

    def killing(tasks, client):
        futures = client.compute(tasks)
        calls.append(len(tasks))
        if len(calls) == fatal:  # the second round
            holders = [address for held in client.who_has(persisted).values() for address in held]
            os.kill(client.run(os.getpid, workers=holders[:1])[holders[0]], signal.SIGKILL)
        return client.gather(futures)

    def remembering(tasks, client):
        persisted[:] = persist(tasks, client)
        return list(persisted)

    monkeypatch.setattr(collections, "compute", killing)
    monkeypatch.setattr(collections, "persist", remembering)
    for (model, X, y, fatal), whole in zip(cases, expected, strict=True):
        calls.clear()
        assert digest(clone(model).fit(X, y, client)) == whole
        assert len(calls) > fatal


@pytest.mark.slow_without_jit
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_grid_search_on_a_cluster(data, cluster):
    X, y = data
    client = cluster(2)
    search = GridSearchCV(nbnet.MLPClassifier(**SMALL, max_iter=3), {"alpha": [1e-4, 1.0]}, cv=2)
    expected = clone(search).fit(X, y).cv_results_["mean_test_score"]
    with client.as_current(), joblib.parallel_config("dask"):
        found = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, expected)
