"""A GPU that fails: one sentence, an estimator as it was, memory that comes back, a process that goes on."""

import gc

import numpy as np
import pytest

from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier, trainer
from nbnet.cuda import faults, launch, product
from nbnet.cuda.dense import gather
from nbnet.cuda.launch import Queue
from nbnet.cuda.session import as_rows, as_targets
from tests.cuda_sim import simulator
from tests.helpers import fit

X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Small tiles; no GPU that an earlier test has lost; a warning is given again."""
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(faults, "_lost", {})
    trainer.say_once.cache_clear()
    yield
    trainer.say_once.cache_clear()


def tiny(device="cuda", **parameters):
    return MLPClassifier((), max_iter=1, batch_size=12, random_state=0, device=device, **parameters)


@pytest.mark.parametrize(
    ("call", "name", "sentence"),
    [
        ("cuLaunchKernel", "ILLEGAL_ADDRESS", faults.LOST),
        ("cuMemAlloc", "DEVICE_UNAVAILABLE", faults.BUSY),
        ("cuMemcpyDtoH", "LAUNCH_FAILED", faults.LOST),
        ("cuMemcpyHtoD", "UNSUPPORTED_PTX_VERSION", faults.TOO_OLD),
    ],
)
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(call, name, sentence):
    new, fitted = tiny(), fit(tiny(), X, Y)
    before, expected = dict(vars(fitted)), fitted.predict_proba(X)
    for model in (new, fitted):
        faults._lost.clear()
        with simulator.failing(call, name), pytest.raises(RuntimeError) as raised:
            fit(model, X, Y)
        assert str(raised.value) == (
            f"device='cuda' failed: {sentence} ([700] Call to {call} results in CUDA_ERROR_{name})."
        )
    assert "params_" not in vars(new)
    assert vars(fitted) == before
    faults._lost.clear()
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)
    np.testing.assert_array_equal(fit(new, X, Y).predict_proba(X), expected)


def test_a_prediction_that_fails():
    model = fit(tiny(), X, Y)
    with (
        simulator.failing("cuMemcpyDtoH", "DEVICE_UNAVAILABLE"),
        pytest.raises(RuntimeError, match="device='cuda' failed: it is busy: another process has it for itself"),
    ):
        model.predict(X)
    assert len(model.predict(X)) == len(X)


def test_partial_fit_says_it_once():
    with simulator.failing("cuLaunchKernel", "LAUNCH_FAILED"), pytest.raises(RuntimeError) as raised:
        tiny().partial_fit(X, Y, classes=[0, 1])
    assert str(raised.value).count("failed: ") == 1


def test_after_a_lost_gpu_the_cpu_goes_on():
    model = fit(tiny(), X, Y)
    expected = model.predict_proba(X)
    with simulator.failing("cuLaunchKernel", "ECC_UNCORRECTABLE"), pytest.raises(RuntimeError, match=faults.LOST):
        model.fit(X, Y)
    with pytest.raises(RuntimeError, match="device='cuda' cannot be used: GPU number 0 failed before: it is lost"):
        model.fit(X, Y)
    with pytest.warns(UserWarning, match="device='cuda' computes on the CPU: GPU number 0 failed before"):
        np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
    with pytest.warns(UserWarning, match="device='auto' computes on the CPU: GPU number 0 failed before"):
        fit(tiny("auto"), X, Y)


def test_errors_of_others_pass():
    def scorer(estimator, X, y):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tiny(scoring=scorer).fit(X, Y, X_val=X, y_val=Y)


@pytest.mark.parametrize("room", [500, 1500, 2500])
def test_memory_that_runs_out_comes_back_while_the_error_is_held(room):
    model = tiny()
    gc.collect()
    before = simulator.memory_in_use()
    with simulator.memory_total(room), pytest.raises(MemoryError, match="The GPU has no room for another") as raised:
        fit(model, X, Y)
    assert simulator.memory_in_use() == before
    assert raised.value.__traceback__ is not None and "params_" not in vars(model)
    assert len(fit(model, X, Y).predict(X)) == len(X)


def test_a_prediction_without_memory():
    model = fit(tiny(), X, Y)
    gc.collect()
    before = simulator.memory_in_use()
    with simulator.memory_total(1000), pytest.raises(MemoryError, match="no room") as raised:
        model.predict(X)
    assert simulator.memory_in_use() == before and raised.value.__traceback__ is not None


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (TextEmbeddingClassifier(2, max_iter=1, device="cuda"), ["a b", "b"] * 3),
        (ConvClassifier((2,), (), max_iter=1, device="cuda"), np.zeros((6, 3, 3), np.float32)),
    ],
    ids=["texts", "images"],
)
def test_texts_and_images(model, given):
    gc.collect()
    before = simulator.memory_in_use()
    with simulator.failing("cuLaunchKernel", "OUT_OF_MEMORY"), pytest.raises(MemoryError) as raised:
        fit(model, given, Y[:6])
    assert simulator.memory_in_use() == before and "params_" not in vars(model)
    fit(model, given, Y[:6])
    for call in (model.predict, model.transform):
        with simulator.failing("cuLaunchKernel", "DEVICE_UNAVAILABLE"), pytest.raises(RuntimeError) as raised:
            call(given)
        assert str(raised.value).startswith(f"device='cuda' failed: {faults.BUSY} (")


def test_memory_that_runs_out_in_the_driver():
    with (
        simulator.failing("cuLaunchKernel", "OUT_OF_MEMORY", after=3),  # a kernel's code needs memory too
        pytest.raises(MemoryError, match="GPU number 0 has no room for this: fit on fewer rows"),
    ):
        fit(tiny(), X, Y)


# ---------------------------------------------------------------- sizes that 32 bits cannot count


class Huge:
    """Has the shape of an array that no test can hold."""

    def __init__(self, *shape):
        self.shape, self.dtype, self.size = shape, np.dtype("float32"), int(np.prod(shape, dtype=object))


@pytest.mark.parametrize(
    ("shape", "message"), [((2**31, 1), "a column of X has 2147483648"), ((1, 2**33), "a row of X has 8589934592")]
)
def test_too_many_rows_or_columns(shape, message):
    with pytest.raises(ValueError, match=f"{message} elements: on a GPU at most 2\\*\\*31 - 1 are supported"):
        as_rows(Huge(*shape))


def test_too_many_targets(monkeypatch):
    monkeypatch.setattr(launch, "LARGEST", 40)
    with pytest.raises(ValueError, match="y has 48 elements"):
        as_targets(None, np.zeros((24, 2)), np.ones(24), 2, np.float32)


def test_a_batch_of_too_many_inputs(monkeypatch):
    monkeypatch.setattr(launch, "LARGEST", 5000)
    many = np.tile(X, (20, 10))
    with pytest.raises(ValueError, match="the input for 240 rows has 7680 elements"):
        fit(tiny().set_params(batch_size=240), many, np.tile(Y, 20))


def test_too_many_blocks():
    rows = as_rows(X)._replace(n_columns=np.uint32(128 * 2**16))
    with pytest.raises(ValueError, match="a GPU takes no 3 x 65536 blocks"):
        gather(Queue(), rows, None, None, len(X))
