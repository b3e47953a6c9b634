"""
Images of any size: cut, resized, changed at random
===================================================

Pictures from a camera differ in size, and a network wants one array. This example reads two files, cuts and resizes
them, shows what the two interpolations do, and changes images at random as training does.
"""

# %%
# ``load_images`` reads files one after the other, turns them upright, and keeps only what comes out: 2 x 96 x 96 pixels
# here, whatever the size of the files. ``crop="center"`` keeps the aspect ratio; without it the pictures are squeezed.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from nbnet import ImagePreprocessor, MLPClassifier, load_images
from nbnet.images import Augmentation, augment_images

sample = load_sample_images()


def show(columns, titles, height=2.2):
    """A row of pictures."""
    _, axes = plt.subplots(1, len(columns), figsize=(height * len(columns), height), layout="constrained")
    for ax, picture, title in zip(axes, columns, titles, strict=True):
        ax.imshow(np.clip(picture.squeeze(), 0, 255).astype(np.uint8), cmap="gray", vmin=0, vmax=255)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    plt.show()


squeezed = load_images(sample.filenames, size=96)
images = load_images(sample.filenames, size=96, crop="center")
print(images.shape, images.dtype)
show([*squeezed, *images], ["whole", "whole", 'crop="center"', 'crop="center"'])

# %%
# The same steps as a scikit-learn transformer, for images that are arrays already. "area" takes the mean of all that a
# pixel covers. "bilinear" looks at four pixels only: fine lines break up when an image becomes much smaller, but one
# that becomes larger is smooth.

flower = sample.images[1]
box = (90, 200, 200, 260)  # top, left, height, width
small = {name: ImagePreprocessor(box, (25, 32), interpolation=name) for name in ("area", "bilinear")}
large = {name: ImagePreprocessor((16, 20), (160, 200), interpolation=name) for name in ("area", "bilinear")}
show(
    [step.transform([flower])[0] for step in (*small.values(), *large.values())],
    ["8 times smaller, area", "bilinear", "10 times larger, area", "bilinear"],
)

# %%
# Gray images, and images normalized by what was learned from the training images:

gray = ImagePreprocessor("center", 96, channels=1).transform(sample.images)
normalize = ImagePreprocessor("center", 96, normalize=True).fit(sample.images)
print("mean of red, green, blue:", normalize.mean_.round(1), " deviation:", normalize.scale_.round(1))
print("after it:", normalize.transform(sample.images).mean(axis=(0, 1, 2)).round(3))
show(gray, ["china", "flower"])

# %%
# In a pipeline the classifier sees what the preprocessor makes of the images, when it is fitted and when it predicts.
# A quarter of the pixels of a digit is enough for nine in ten:

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(digits.images, digits.target, random_state=0)
flat = FunctionTransformer(lambda X: X.reshape(len(X), -1))
for size in (8, 4):
    mlp = MLPClassifier((64,), learning_rate_init=0.01, random_state=0)
    model = make_pipeline(ImagePreprocessor(size=size, normalize=True), flat, mlp).fit(X_train, y_train)
    print(f"{size} x {size} pixels: accuracy {model.score(X_test, y_test):.3f}")

# %%
# ``Augmentation`` says what may happen to an image during training. What does happen depends on the seed, the image and
# the epoch alone, so a fit can be repeated exactly.

changes = Augmentation(horizontal_flip=0.5, shift=8, rotation=15, brightness=0.3)
epochs = [augment_images(images, changes, random_state=0, epoch=epoch) for epoch in range(6)]
for number in range(2):
    show([epoch[number] for epoch in epochs], [f"epoch {epoch}" for epoch in range(6)], height=1.6)
