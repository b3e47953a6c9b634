"""
A model file, and a fit that is killed
======================================

A model is saved without pickle, read elsewhere by other means, and a fit that is stopped half-way goes on where it was.
"""

# %%
import json
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors import safe_open
from sklearn.datasets import load_digits

import nbnet

digits = load_digits()
X, y = digits.images.astype(np.float32), digits.target
folder = Path(tempfile.mkdtemp())

model = nbnet.ConvClassifier(((8, 5), "max_pool", 32), max_iter=10, learning_rate="one_cycle", random_state=0)
model.set_params(batch_size=32, learning_rate_init=0.01).fit(X[:1400], y[:1400])
model.save(folder / "digits.safetensors")
loaded = nbnet.load(folder / "digits.safetensors")
print(
    f"{loaded.score(X[1400:], y[1400:]):.3f}, equal bits: {(loaded.predict_proba(X) == model.predict_proba(X)).all()}"
)

# %%
# What is in the file: a header in JSON, and arrays that any program with safetensors can read, such as the filters.

with safe_open(folder / "digits.safetensors", "numpy") as file:
    header = json.loads(file.metadata()["header"])
    filters = file.get_tensor("layers.1.weight").reshape(5, 5, 8)
    for name in sorted(file.keys()):
        print(f"{name:30} {file.get_slice(name).get_dtype()} {file.get_slice(name).get_shape()}")
for name in ("estimator", "image_shape", "image_layers", "layers", "versions"):
    print(f"{name:30} {header[name]}")

_, axes = plt.subplots(1, 8, figsize=(10, 1.6), layout="constrained")
for ax, weights in zip(axes, np.moveaxis(filters, 2, 0), strict=True):
    ax.imshow(weights, cmap="RdBu_r", vmin=-np.abs(filters).max(), vmax=np.abs(filters).max())
    ax.set_axis_off()

# %%
# A fit that is interrupted goes on from its checkpoint. Here a validation score raises an error in the middle, as a
# crash would; the second call makes only the epochs that are left, and the curve is that of an uninterrupted fit.

crash_at = 6


def accuracy(estimator, X, y):
    """A score that fails once."""
    global crash_at
    crash_at -= 1
    if crash_at == 0:
        raise RuntimeError("the power is gone")
    return np.mean(estimator.predict(X) == y)


def fit(**arguments):
    """Train with the last images for validation."""
    fresh = nbnet.ConvClassifier(((8, 5), "max_pool", 32), scoring=accuracy, max_iter=10, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few epochs do not converge
        return fresh.fit(X[:1400], y[:1400], X_val=X[1400:], y_val=y[1400:], **arguments)


try:
    fit(checkpoint=folder / "fit.checkpoint")
except RuntimeError as error:
    print(f"{error}; in the folder: {sorted(path.name for path in folder.iterdir())}")
resumed = fit(checkpoint=folder / "fit.checkpoint")
whole = fit()
print(f"equal bits: {(resumed.params_ == whole.params_).all()}; left: {sorted(path.name for path in folder.iterdir())}")

_, ax = plt.subplots(figsize=(6, 3), layout="constrained")
epochs = np.arange(1, 11)
ax.plot(epochs, whole.history_["val_score"], lw=6, alpha=0.3, label="not interrupted")
ax.plot(epochs[:5], resumed.history_["val_score"][:5], "o-", label="before the crash")
ax.plot(epochs[5:], resumed.history_["val_score"][5:], "s-", label="after it")
ax.set(xlabel="epoch", ylabel="validation accuracy")
ax.legend()
plt.show()
