"""The parameter `device`, on a machine without a GPU: one sentence says what is missing."""

import pickle
import sys
import warnings

import numpy as np
import pytest

import nbnet
from nbnet import ConvClassifier, MLPClassifier, MLPRegressor, TextEmbeddingClassifier, trainer
from nbnet.cuda import device
from tests.helpers import fit

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def tiny(**parameters):
    return MLPClassifier((2,), max_iter=1, random_state=0, **parameters)


@pytest.fixture
def no_gpu(monkeypatch):
    """As on a machine without numba-cuda, whatever is installed."""
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    trainer.say_once.cache_clear()


class FakeCuda:
    """What `why_no_cuda` asks of numba.cuda."""

    def __init__(self, available=True, n_gpus=1, error=None):
        self.is_available, self.gpus, self._error = lambda: available, [object()] * n_gpus, error
        self.cuda_error = lambda: error

    def select_device(self, number):
        if self._error:
            raise OSError(self._error)


@pytest.fixture
def fake_cuda(monkeypatch):
    """Puts a `FakeCuda` in the place of numba.cuda."""

    def install(**state):
        fake = FakeCuda(**state)
        monkeypatch.setattr(device, "find_spec", lambda name: True)
        monkeypatch.setitem(sys.modules, "nbnet.cuda.jit", fake)
        fake.cuda = fake
        device._check_usable.cache_clear()
        return fake

    yield install
    device._check_usable.cache_clear()


def test_cuda_without_the_package(no_gpu):
    with pytest.raises(RuntimeError, match=r"numba-cuda is not installed: pip install 'nbnet\[cuda\]'\.$") as raised:
        tiny(device="cuda").fit(X, Y)
    assert str(raised.value).startswith("device='cuda' cannot be used: ")
    with pytest.raises(RuntimeError, match="device='cuda:1' cannot be used"):
        MLPRegressor(device="cuda:1").fit(X, X[:, 0])
    with pytest.raises(RuntimeError, match="device='cuda' cannot be used"):
        ConvClassifier((2,), device="cuda").fit(X.reshape(-1, 1, 3), Y)


def test_cuda_without_a_driver(fake_cuda):
    fake_cuda(available=False, error="[100] CUDA_ERROR_NO_DEVICE:\n no device. ")
    expected = "there is no NVIDIA GPU with a working driver: [100] CUDA_ERROR_NO_DEVICE: no device"
    assert device.why_no_cuda(0) == expected
    assert device.devices() == []


def test_a_number_that_no_gpu_has(fake_cuda):
    fake_cuda(n_gpus=2)
    assert device.why_no_cuda(2) == "there is no GPU number 2: the driver shows 2, counted from 0"


def test_a_library_that_is_missing(fake_cuda):
    fake_cuda(error="libnvrtc.so cannot be loaded.")
    reason = device.why_no_cuda(0)
    assert reason.startswith("GPU number 0 cannot compile and run a kernel (pip install 'nbnet[cuda]' installs")
    assert reason.endswith(": libnvrtc.so cannot be loaded")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("[46] Call to cuDevicePrimaryCtxRetain results in CUDA_ERROR_DEVICE_UNAVAILABLE", "it is busy: another"),
        ("[222] Call to cuModuleLoad results in CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "its driver is too old for"),
    ],
)
def test_a_gpu_that_is_busy_or_has_an_old_driver(fake_cuda, error, sentence, monkeypatch):
    fake = fake_cuda(error=error)
    reason = device.why_no_cuda(0)
    assert reason.startswith(f"GPU number 0 cannot be used: {sentence}")
    assert reason.endswith(f"({error})")
    fake._error = None
    monkeypatch.setattr(device, "_run_one_thread", lambda cuda: None)
    assert device.why_no_cuda(0) == ""  # it may be free later


def test_auto_takes_the_cpu_and_says_so_once(no_gpu):
    with pytest.warns(UserWarning, match="device='auto' computes on the CPU: .*numba-cuda is not installed"):
        model = fit(tiny(device="auto"), X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fit(tiny(device="auto"), X, Y)
        np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))
    np.testing.assert_array_equal(model.params_, fit(tiny(), X, Y).params_)


def test_a_model_fitted_on_a_gpu_predicts_without_one(no_gpu):
    model = fit(tiny(), X, Y)
    expected = model.predict_proba(X)
    model.set_params(device="cuda")  # as if it came from elsewhere
    loaded = pickle.loads(pickle.dumps(model))
    with pytest.warns(UserWarning, match="device='cuda' computes on the CPU: "):
        np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    with pytest.raises(RuntimeError, match="cannot be used"):
        loaded.partial_fit(X, Y)


def test_so_does_a_model_of_texts(no_gpu, tmp_path):
    texts, labels = ["good film", "bad film", "so good", "so bad"], [1, 0, 1, 0]
    model = TextEmbeddingClassifier(4, max_iter=1, random_state=0).fit(texts, labels)
    expected = model.predict_proba(texts)
    model.set_params(device="cuda").save(tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="device='cuda' computes on the CPU: "):
        np.testing.assert_array_equal(model.predict_proba(texts), expected)
    loaded = pickle.loads(pickle.dumps(model))
    for other in (loaded, nbnet.load(tmp_path / "model.safetensors")):
        np.testing.assert_array_equal(other.predict_proba(texts), expected)
    with pytest.raises(RuntimeError, match="cannot be used"):
        loaded.fit(texts, labels)


@pytest.mark.parametrize("value", ["gpu", "cuda:", "cuda:-1", "cuda:x", " cuda", 0, None])
def test_other_devices_are_refused(value):
    with pytest.raises(ValueError, match=r"The 'device' parameter of MLPClassifier must be .*'cuda:N'") as raised:
        tiny(device=value).fit(X, Y)
    assert repr(value) in str(raised.value)


def test_the_precision_of_products_is_a_gpus_matter():
    np.testing.assert_array_equal(fit(tiny(matmul_precision="high"), X, Y).params_, fit(tiny(), X, Y).params_)
    with pytest.raises(ValueError, match="The 'matmul_precision' parameter of MLPClassifier must be a str among"):
        tiny(matmul_precision="medium").fit(X, Y)
