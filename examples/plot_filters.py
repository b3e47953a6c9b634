"""
What a network looks for: filters and feature maps
==================================================

The first convolution's filters are small pictures, and what they find in an image is a picture again. Both are at hand:
``coefs_`` holds the filters, and a few lines of NumPy slide them over an image.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from nbnet import ConvClassifier

digits = load_digits()
X, y = digits.images.astype(np.float32), digits.target
model = ConvClassifier(
    ((8, 5), "max_pool", 32),
    batch_size=32,
    max_iter=15,
    learning_rate="one_cycle",
    learning_rate_init=0.01,
    random_state=0,
)
model.fit(X[:1400], y[:1400])
print(f"{model.score(X[1400:], y[1400:]):.3f} of the later digits are right")
print([coef.shape for coef in model.coefs_])

# %%
# Eight filters of 5 x 5 pixels: strokes in several directions, their ends and edges. Red is positive, blue negative.

filters = model.coefs_[0][:, :, 0]
largest = np.abs(filters).max()
_, axes = plt.subplots(1, 8, figsize=(10, 1.6), layout="constrained")
for ax, weights in zip(axes, np.moveaxis(filters, 2, 0), strict=True):
    ax.imshow(weights, cmap="RdBu_r", vmin=-largest, vmax=largest)
    ax.set_axis_off()

# %%
# What each finds in four digits, after the activation. The first column is the digit itself.

images = (X[[0, 4, 7, 8]] - model.channel_mean_) / model.channel_deviation_
windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, ((0, 0), (2, 2), (2, 2))), (5, 5), axis=(1, 2))
maps = np.maximum(np.einsum("ihwkl,klc->ihwc", windows, filters) + model.intercepts_[0], 0)

_, axes = plt.subplots(4, 9, figsize=(10, 4.6), layout="constrained")
for row, image, found in zip(axes, images, maps, strict=True):
    row[0].imshow(image, cmap="gray")
    for ax, one in zip(row[1:], np.moveaxis(found, 2, 0), strict=True):
        ax.imshow(one, cmap="magma", vmin=0, vmax=maps.max())
for ax in axes.ravel():
    ax.set_axis_off()
plt.show()
