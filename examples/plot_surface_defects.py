"""
Defects on surfaces: more images from the ones there are
========================================================

A camera over a belt sees brushed metal: fine, scratched, stained, or cracked along an edge. Images with a defect are
few, and defects lie anywhere, in any direction. Random flips and shifts show the network what does not matter. The
images are drawn here, 32 x 32 pixels each.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from nbnet import ConvClassifier, HistoryDisplay

KINDS = np.array(["fine", "scratch", "stain", "crack"])
rows, columns = np.mgrid[:32, :32]


def surface(kind, rng):
    """Brushed metal with one kind of defect, or none."""
    image = 130 + 8 * np.repeat(rng.normal(size=(32, 1)), 32, axis=1) + rng.normal(scale=12, size=(32, 32))
    angle, h, w = rng.uniform(0, np.pi), *rng.uniform(8, 24, 2)
    along = (rows - h) * np.cos(angle) + (columns - w) * np.sin(angle)
    across = (columns - w) * np.cos(angle) - (rows - h) * np.sin(angle)
    if kind == "scratch":
        image += 45 * ((abs(across) < 0.8) & (abs(along) < rng.uniform(4, 8)))
    if kind == "stain":
        image -= 40 * np.exp(-(along**2 / rng.uniform(8, 20) + across**2 / rng.uniform(4, 10)))
    if kind == "crack":
        bend = 2.5 * np.sin(along / rng.uniform(1.5, 2.5))
        image -= 45 * ((abs(across - bend) < 0.8) & (abs(along) < rng.uniform(5, 9)))
    return np.clip(image, 0, 255).astype(np.uint8)


def draw(n, seed):
    rng = np.random.default_rng(seed)
    y = KINDS[np.arange(n) % 4]
    return np.stack([surface(kind, rng) for kind in y]), y


X, y = draw(120, seed=0)
X_test, y_test = draw(800, seed=1)

_, axes = plt.subplots(2, 8, figsize=(10, 2.8), layout="constrained")
for ax, image, kind in zip(axes.T.ravel(), X, y, strict=False):
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_title(kind, fontsize=9)
    ax.set_axis_off()

# %%
# The same network twice. ``uint8`` images go in as they are; mean and deviation are learned. Images that change need
# more epochs, and both get them; ``n_iter_no_change`` keeps the rate's cycle from ending early.

settings = {"hidden_layer_sizes": (64,), "max_iter": 150, "n_iter_no_change": np.inf, "batch_size": 16}
settings |= {"learning_rate": "one_cycle", "learning_rate_init": 0.005, "random_state": 0}
layers = (16, "max_pool", 32, "max_pool", 64, "global_avg_pool")
plain = ConvClassifier(layers, **settings)
varied = ConvClassifier(layers, augment={"horizontal_flip": 0.5, "vertical_flip": 0.5, "shift": 3}, **settings)
for model in (plain, varied):
    model.fit(X, y, X_val=X_test, y_val=y_test)
print(f"120 images: {plain.score(X_test, y_test):.3f}; changed at random: {varied.score(X_test, y_test):.3f}")

# %%
# Both training losses fall to nothing. Without changes the validation loss stays high: the network knows its 120 images
# by heart, and some of what it knows is true of them only.

_, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
for ax, model, title in zip(axes, (plain, varied), ("plain", "changed at random"), strict=True):
    HistoryDisplay.from_estimator(model, ax=ax)
    ax.set_title(title)

# %%
# What is still taken for what:

display = ConfusionMatrixDisplay.from_estimator(varied, X_test, y_test, colorbar=False, cmap="Blues")
display.ax_.set_title("test images")
plt.show()
