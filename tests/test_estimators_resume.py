"""Fits that go on from a checkpoint end with the same bits, whatever stopped them."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import fit
from mutate_model_files import arrays_of, signed, unpacked
from numpy.testing import assert_array_equal
from sklearn.base import clone

from nbnet import (
    ConvClassifier,
    MLPClassifier,
    MLPRegressor,
    ModelFileError,
    TextEmbeddingClassifier,
    TokenTagger,
    checkpoints,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 4))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
IMAGES = rng.integers(0, 255, size=(16, 6, 6)).astype(np.uint8)
TEXTS = [f"w{i} w{i % 3} w{i % 5} and so on" for i in range(16)]
KINDS = np.arange(16) % 3
SENTENCES = [text.split() for text in TEXTS]
TAGS = [["B-w", "I-w", "B-w", "O", "O", "O"]] * 16
SHORT = dict(max_iter=6, random_state=0)
VALIDATED = dict(X_val=X[:10] + 0.1, y_val=Y[:10])

FITS = {
    "adam": (MLPClassifier((3,), **SHORT), X, Y),
    "adamw": (MLPClassifier.tabular(**{"hidden_layer_sizes": (3,), "batch_size": 8, **SHORT}), X, Y),
    "sgd": (MLPClassifier((3,), solver="sgd", batch_size=7, **SHORT), X, Y),
    "inverse scaling": (MLPClassifier((3,), solver="sgd", learning_rate="invscaling", **SHORT), X, Y),
    "adaptive": (
        MLPClassifier((3,), solver="sgd", learning_rate="adaptive", tol=10.0, n_iter_no_change=1, **SHORT), X, Y
    ),
    "one cycle": (MLPRegressor("huber", (3,), learning_rate="one_cycle", dtype="float32", **SHORT), X, X[:, 0]),
    "no improvement": (MLPClassifier((3,), tol=10.0, n_iter_no_change=2, **SHORT), X, Y),
    "early stopping": (
        MLPClassifier((3,), early_stopping=True, tol=10.0, n_iter_no_change=3, learning_rate_init=0.1, **SHORT), X, Y
    ),
    "dropout": (MLPClassifier((4,), dropout=0.5, warmup_fraction=0.3, max_grad_norm=0.1, **SHORT), X, Y),
    "sparse": (MLPClassifier((3,), **SHORT), sp.csr_array(np.abs(X) * (X > 0)), Y),
    "images": (ConvClassifier((4, "max_pool"), (3,), batch_norm=True, augment={"shift": 1}, **SHORT), IMAGES, KINDS),
    "images, early": (ConvClassifier((2,), (), early_stopping=True, validation_fraction=0.4, **SHORT), IMAGES, KINDS),
    "texts": (TextEmbeddingClassifier(4, n_buckets=64, target_loss=None, **SHORT), TEXTS, KINDS),
    "texts, adam": (TextEmbeddingClassifier(4, (3,), solver="adam", n_buckets=64, **SHORT), TEXTS, KINDS),
    "texts, sgd": (TextEmbeddingClassifier(4, solver="sgd", n_buckets=64, loss="one_vs_all", **SHORT), TEXTS, KINDS),
    "texts, tree": (TextEmbeddingClassifier(4, loss="hierarchical_softmax", n_buckets=64, **SHORT), TEXTS, KINDS),
    "texts, early": (
        TextEmbeddingClassifier(4, early_stopping=True, validation_fraction=0.4, n_buckets=64, **SHORT), TEXTS, KINDS
    ),
    "sentences": (TokenTagger(4, early_stopping=True, validation_fraction=0.4, **SHORT), SENTENCES, TAGS),
}  # fmt: skip


class Crash(BaseException):
    """The end of a process."""


def crash_after(monkeypatch, n_writes, error=Crash):
    """Let the fit end when it has written its checkpoint so often."""
    epoch_end, n = checkpoints.Checkpoint.epoch_end, 0

    def count(self, n_iter, reached):
        nonlocal n
        epoch_end(self, n_iter, reached)
        n += 1
        if n == n_writes:
            raise error

    monkeypatch.setattr(checkpoints.Checkpoint, "epoch_end", count)


def crashed_fit(monkeypatch, n_writes, model, *args, **kwargs):
    """A fit that ends so."""
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_after(patch, n_writes)
        fit(model, *args, **kwargs)


def assert_same_fit(a, b):
    """Equal bits of all that training gives."""
    a, b = a._trained, b._trained
    assert_array_equal(a.params_, b.params_)
    for name in (
        "loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_", "n_iter_", "t_",
        "_no_improvement_count",
    ):  # fmt: skip
        assert getattr(a, name) == getattr(b, name), name
    for name in set(a.history_) - {"seconds"}:
        assert_array_equal(a.history_[name], b.history_[name])
    assert len(a.history_["seconds"]) == len(b.history_["seconds"])
    mine, other = a._optimizer, b._optimizer
    assert_array_equal(mine.moments, other.moments)
    assert mine._replace(moments=None) == other._replace(moments=None)


@pytest.mark.parametrize("name", FITS)
def test_the_same_bits(name, tmp_path, monkeypatch):
    model, X, y = FITS[name]
    whole = fit(clone(model), X, y)
    path, n_crashes = tmp_path / "fit", 0
    for n_writes in (1, 2):
        if whole.n_iter_ - n_crashes > n_writes:
            crashed_fit(monkeypatch, n_writes, clone(model), X, y, checkpoint=path)
            n_crashes += n_writes
    assert n_crashes > 0
    assert os.listdir(tmp_path) == ["fit"]
    assert_same_fit(fit(clone(model).set_params(n_jobs=2), X, y, checkpoint=path), whole)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("every", [1, 2, 4, 100])
def test_every_so_many_epochs(every, tmp_path, monkeypatch):
    model, path = MLPClassifier((3,), **SHORT), tmp_path / "fit"
    crashed_fit(monkeypatch, 5, model, X, Y, checkpoint=path, checkpoint_every=every)
    resumed = clone(model)
    with monkeypatch.context() as patch:
        made = []
        patch.setattr(checkpoints.Checkpoint, "epoch_end", lambda self, n_iter, reached: made.append(n_iter) or None)
        fit(resumed, X, Y, checkpoint=str(path), checkpoint_every=every)
    assert made == list(range(5 // every * every + 1, 6))
    assert_same_fit(resumed, fit(model, X, Y))


def test_validation_rows_and_weights(tmp_path, monkeypatch):
    model = MLPClassifier((3,), early_stopping=True, scoring="balanced_accuracy", class_weight="balanced", **SHORT)
    arguments = dict(VALIDATED, sample_weight=rng.random(40))
    whole = fit(clone(model), X, Y, **arguments)
    crashed_fit(monkeypatch, 3, clone(model), X, Y, checkpoint=tmp_path / "fit", **arguments)
    assert_same_fit(fit(clone(model), X, Y, checkpoint=tmp_path / "fit", **arguments), whole)


def test_a_warm_start_goes_on_as_well(tmp_path, monkeypatch):
    model = fit(MLPClassifier((3,), warm_start=True, **SHORT), X, Y)
    whole, crashed, resumed = (fit(clone(model), X, Y) for _ in range(3))
    fit(whole, X, Y)
    crashed_fit(monkeypatch, 2, crashed, X, Y, checkpoint=tmp_path / "fit")
    assert crashed.n_iter_ == 6  # as it was
    with pytest.raises(ValueError, match="other weights"):
        fit(clone(model), X, Y, checkpoint=tmp_path / "fit")
    assert_same_fit(fit(resumed, X, Y, checkpoint=tmp_path / "fit"), whole)


def accuracy(estimator, X, y):
    """A score of one's own."""
    return float((estimator.predict(X) == y).mean())


def test_scores_that_are_functions(tmp_path, monkeypatch):
    model, path = MLPClassifier((3,), scoring=accuracy, early_stopping=True, **SHORT), tmp_path / "fit"
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=path)
    with pytest.raises(ValueError, match=r"scoring is .*'accuracy'. there, None here"):
        fit(clone(model).set_params(scoring=None), X, Y, checkpoint=path)
    assert_same_fit(fit(clone(model), X, Y, checkpoint=path), fit(model, X, Y))


def test_how_x_lies_in_memory_does_not_matter(tmp_path, monkeypatch):
    model, path = MLPClassifier((3,), **SHORT), tmp_path / "fit"
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=path)
    assert_same_fit(fit(clone(model), np.asfortranarray(X), Y.tolist(), checkpoint=path), fit(model, X, Y))


def test_ctrl_c_keeps_the_file(tmp_path, monkeypatch):
    model, path = MLPClassifier((3,), **SHORT), tmp_path / "fit"
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="interrupted by user"):
        crash_after(patch, 3, KeyboardInterrupt)
        fit(model, X, Y, checkpoint=path)
    assert model.n_iter_ == 3
    assert os.listdir(tmp_path) == ["fit"]
    assert_same_fit(fit(clone(model), X, Y, checkpoint=path), fit(model, X, Y))


def test_callbacks_see_the_remaining_epochs(tmp_path, monkeypatch):
    pytest.importorskip("sklearn.callback")

    class Count:
        def __init__(self):
            self.n_epochs = 0
            self.most = None

        def setup(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            if context.task_name == "epoch":
                self.n_epochs += 1
            else:
                self.most = context.max_subtasks

        def on_fit_task_end(self, estimator, context):
            return False

        def teardown(self, estimator, context):
            pass

    model, path = MLPClassifier((3,), **SHORT), tmp_path / "fit"
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=path)
    count = Count()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        resumed = fit(clone(model).set_callbacks(count), X, Y, checkpoint=path)
    assert (count.n_epochs, count.most) == (4, 4)
    assert resumed.n_iter_ == 6


# ---------------------------------------------------------------- other fits


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(parameters=dict(alpha=0.5)), r"other parameters: alpha is 0.0001 there, 0.5 here. Delete it"),
        (dict(parameters=dict(random_state=1, max_iter=7)), "max_iter is 6 there, 7 here; random_state is 0 there"),
        (dict(X=X + 1e-9), "other rows, targets or weights"),
        (dict(X=X.astype(np.float32)), "other rows, targets or weights"),
        (dict(y=2 - Y), "other rows, targets or weights"),
        (dict(sample_weight=np.full(40, 2.0)), "other rows, targets or weights"),
        (VALIDATED, "other rows, targets or weights"),
    ],
    ids=["parameter", "two parameters", "rows", "type", "targets", "weights", "validation"],
)
def test_other_data_or_parameters(change, message, tmp_path, monkeypatch):
    path, model = tmp_path / "fit", MLPClassifier((3,), **SHORT)
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=path)
    before = path.read_bytes()
    other = clone(model).set_params(**change.get("parameters", {}))
    arguments = {"X": X, "y": Y, **{key: value for key, value in change.items() if key != "parameters"}}
    with pytest.raises(ValueError, match=message):
        fit(other, **arguments, checkpoint=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit"]
    assert not hasattr(other, "params_")


def test_texts_and_other_estimators_are_told_apart(tmp_path, monkeypatch):
    path, model = tmp_path / "fit", TextEmbeddingClassifier(4, n_buckets=64, target_loss=None, **SHORT)
    crashed_fit(monkeypatch, 2, model, TEXTS, KINDS, checkpoint=path)
    with pytest.raises(ValueError, match="other rows"):
        fit(clone(model), TEXTS[::-1], KINDS, checkpoint=path)
    with pytest.raises(ValueError, match="estimator is 'TextEmbeddingClassifier' there"):
        fit(MLPClassifier((3,), **SHORT), X, Y, checkpoint=path)
    with pytest.raises(ValueError, match="analyzer is"):
        fit(TokenTagger(4, **SHORT), SENTENCES, TAGS, checkpoint=path)
    with pytest.raises(ValueError, match="needs an integer as random_state"):
        fit(TokenTagger(4), SENTENCES, TAGS, checkpoint=path)


def test_another_version(tmp_path, monkeypatch):
    path, model = tmp_path / "fit", MLPClassifier((3,), **SHORT)
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=path)
    monkeypatch.setattr(checkpoints.Fingerprint.__new__, "__defaults__", ("9.9",))
    with pytest.raises(ValueError, match=r"is of nbnet .*, whose bits may differ from those of 9\.9"):
        fit(clone(model), X, Y, checkpoint=path)


def test_other_files(tmp_path):
    path, model = tmp_path / "fit", MLPClassifier((3,), **SHORT)
    path.write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="fit: "):
        fit(model, X, Y, checkpoint=path)
    fit(model, X, Y).save(path)
    with pytest.raises(ModelFileError, match="it is no nbnet checkpoint"):
        fit(clone(model), X, Y, checkpoint=path)
    assert os.listdir(tmp_path) == ["fit"]


def test_checkpoints_that_lack_something(tmp_path, monkeypatch):
    path, model = tmp_path / "fit", MLPClassifier((3,), **SHORT)
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=path)
    good = path.read_bytes()
    for change, message in (
        (lambda header, arrays: header["progress"].pop("n_iter_"), "it lacks .'n_iter_'."),
        (lambda header, arrays: header.update(counts=[1, -1, 0]), "counts"),
        (lambda header, arrays: arrays.pop("moments"), "moments"),
    ):
        entries, buffer, metadata, header = unpacked(good)
        arrays = arrays_of(entries, buffer)
        change(header, arrays)
        path.write_bytes(signed(header, arrays, metadata))
        with pytest.raises(ModelFileError, match=message):
            fit(clone(model), X, Y, checkpoint=path)


def test_arguments_that_do_not_suit(tmp_path):
    path = tmp_path / "fit"
    for model, message in (
        (MLPClassifier(solver="lbfgs", random_state=0), "solver='lbfgs'"),
        (MLPClassifier(), "integer as random_state, got None"),
        (TextEmbeddingClassifier(random_state=np.random.RandomState(0)), "integer as random_state"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(TEXTS if isinstance(model, TextEmbeddingClassifier) else X[:16], KINDS, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint_every == 0, must be >= 1"):
        MLPClassifier(**SHORT).fit(X, Y, checkpoint=path, checkpoint_every=0)
    with pytest.raises(TypeError, match="checkpoint must be a path, got 3"):
        MLPClassifier(**SHORT).fit(X, Y, checkpoint=3)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- locks


def test_a_file_that_another_fit_uses(tmp_path, monkeypatch):
    path, model = tmp_path / "fit", MLPClassifier((3,), **SHORT)
    epoch_end, inside, go_on = checkpoints.Checkpoint.epoch_end, threading.Event(), threading.Event()

    def wait(self, n_iter, reached):
        epoch_end(self, n_iter, reached)
        inside.set()
        assert go_on.wait(60)

    monkeypatch.setattr(checkpoints.Checkpoint, "epoch_end", wait)
    first = clone(model)
    thread = threading.Thread(target=partial(first.fit, X, Y, checkpoint=path))
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(ValueError, match="is used by another fit that runs now"):
            model.fit(X, Y, checkpoint=path)
    finally:
        go_on.set()
        thread.join()
    assert_same_fit(fit(model, X, Y, checkpoint=path), first)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(checkpoints.fcntl is None, reason="locks of POSIX")
@pytest.mark.parametrize("then", ["nobody has made a new one", "somebody has"])
def test_a_lock_that_its_owner_removes_meanwhile(then, tmp_path, monkeypatch):
    path, calls, flock = str(tmp_path / "lock"), [], checkpoints.fcntl.flock

    def remove_at_first(descriptor, operation):
        calls.append(descriptor)
        if len(calls) == 1:
            os.unlink(path)
            if then == "somebody has":
                (tmp_path / "lock").touch()
        flock(descriptor, operation)

    monkeypatch.setattr(checkpoints.fcntl, "flock", remove_at_first)
    descriptor = checkpoints.lock_file(path)
    assert len(calls) == 2
    with pytest.raises(BlockingIOError):
        checkpoints.lock_file(path)
    checkpoints.unlock_file(path, descriptor)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- what cannot be written


def test_a_full_disk_gives_one_warning(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    model = MLPClassifier((3,), **SHORT)
    with pytest.warns(RuntimeWarning, match="goes on without it: .*No space left") as caught:
        fit(model, X, Y, checkpoint=tmp_path / "fit")
    assert len(caught) == 1
    assert_same_fit(model, fit(clone(model), X, Y))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch):
    path, model, write, n = tmp_path / "fit", MLPClassifier((3,), **SHORT), checkpoints.write, 0

    def full_at_first(*args):
        nonlocal n
        n += 1
        if n == 1:
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(checkpoints, "write", full_at_first)
    with pytest.warns(RuntimeWarning, match="No space left"):
        crashed_fit(monkeypatch, 3, model, X, Y, checkpoint=path)
    assert_same_fit(fit(clone(model), X, Y, checkpoint=path), fit(model, X, Y))


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links(tmp_path, monkeypatch):
    model, link, target = MLPClassifier((3,), **SHORT), tmp_path / "link", tmp_path / "folder" / "fit"
    target.parent.mkdir()
    link.symlink_to(target)
    (tmp_path / "precious").write_text("x")
    (tmp_path / "folder" / "fit.tmp").symlink_to(tmp_path / "precious")  # not followed
    crashed_fit(monkeypatch, 2, model, X, Y, checkpoint=link)
    assert os.listdir(target.parent) == ["fit"]
    assert (tmp_path / "precious").read_text() == "x"
    assert_same_fit(fit(clone(model), X, Y, checkpoint=target), fit(model, X, Y))


@pytest.mark.parametrize("when", ["at the beginning", "meanwhile"])
def test_a_folder_that_is_gone_gives_one_warning(when, tmp_path, monkeypatch):
    path, model = tmp_path / "folder" / "fit", MLPClassifier((3,), **SHORT)
    if when == "meanwhile":
        path.parent.mkdir()
        epoch_end = checkpoints.Checkpoint.epoch_end

        def remove(self, n_iter, reached):
            shutil.rmtree(path.parent, ignore_errors=True)
            epoch_end(self, n_iter, reached)

        monkeypatch.setattr(checkpoints.Checkpoint, "epoch_end", remove)
    with pytest.warns(RuntimeWarning, match="cannot be written") as caught:
        fit(model, X, Y, checkpoint=path)
    assert len(caught) == 1
    assert_same_fit(model, fit(clone(model), X, Y))


# ---------------------------------------------------------------- kill -9


KILLED = dict(max_iter=120, tol=0.0, n_iter_no_change=1000, batch_size=4)
KILLED_FITS = {
    "tables": (MLPClassifier((8,), early_stopping=True, dropout=0.2, **KILLED), X, Y),
    "images": (ConvClassifier((4,), (), batch_norm=True, augment={"shift": 1}, **KILLED), IMAGES, KINDS),
    "texts": (TextEmbeddingClassifier(8, n_buckets=64, target_loss=None, **KILLED), TEXTS, KINDS),
}
N_KILLED = 20


@pytest.mark.slow_without_jit
@pytest.mark.skipif(os.name != "posix", reason="kills children")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", KILLED_FITS)
def test_kill_at_random_moments(name, tmp_path):
    model, X, y = KILLED_FITS[name]
    context, moment, path, n_killed, seed = (
        multiprocessing.get_context("fork"),
        random.Random(0),
        tmp_path / "fit",
        0,
        0,
    )
    while n_killed < N_KILLED:
        model = clone(model).set_params(random_state=seed, n_jobs=1)
        started = time.perf_counter()
        whole = fit(clone(model), X, y)
        longest = max(0.1, time.perf_counter() - started)
        while True:
            child = context.Process(target=partial(fit, clone(model)), args=(X, y), kwargs={"checkpoint": path})
            child.start()
            child.join(moment.uniform(0, longest))
            if child.exitcode is not None:  # it was ready sooner
                assert child.exitcode == 0
                break
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            n_killed += child.exitcode == -signal.SIGKILL
            if moment.random() < 0.2:
                break
        assert_same_fit(fit(clone(model), X, y, checkpoint=path), whole)
        assert os.listdir(tmp_path) == []
        seed += 1
