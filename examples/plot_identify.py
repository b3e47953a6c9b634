"""
Who is it? Identification by features and nearest neighbors
===========================================================

A door camera must know people who were not there when the network was trained; so must a scanner that is shown a new
part. The network then serves as an eye: ``transform`` gives what its last layer sees, and images of one person or part
lie nearer to each other there than their pixels do. Here the network learns the digits 0 to 6; the digits 7, 8 and 9
come later, with five examples each, and are then seen a little shifted and turned.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from nbnet import Augmentation, ConvClassifier
from nbnet.images import augment_images

digits = load_digits()
X, y = digits.images.astype(np.float32), digits.target
known = y < 7
moves = Augmentation(shift=1, rotation=15)
network = ConvClassifier(
    (32, "max_pool", 64, "max_pool"),
    hidden_layer_sizes=(),
    augment=moves,
    batch_size=32,
    max_iter=30,
    learning_rate="one_cycle",
    learning_rate_init=0.01,
    random_state=0,
)
network.fit(X[known], y[known])

# %%
# There is no hidden layer: it would keep only what tells the digits 0 to 6 apart, and new digits would have poorer
# features.
#
# Five images of each new digit are enrolled. The direction of a feature vector says what an image is, its length how
# clear it is: vectors are brought to length one before they are compared.


def features(images):
    return normalize(network.transform(images))


new = np.flatnonzero(~known)
enrolled = np.concatenate([new[y[new] == digit][:5] for digit in (7, 8, 9)])
others = np.setdiff1d(new, enrolled)
seen = augment_images(X[others], moves, random_state=0)
for name, represent in (("pixels", lambda images: images.reshape(len(images), -1)), ("features", features)):
    neighbors = KNeighborsClassifier(3).fit(represent(X[enrolled]), y[enrolled])
    print(f"{name}: {neighbors.score(represent(seen), y[others]):.3f} of {len(others)} images are right")

# %%
# The new digits in the plane of their largest variance: three groups, of kinds that the network was never shown.

plane = PCA(2).fit_transform(features(X[new]))
_, ax = plt.subplots(figsize=(5, 4), layout="constrained")
for digit in (7, 8, 9):
    some = y[new] == digit
    ax.scatter(*plane[some].T, s=8, label=str(digit))
ax.legend(title="digit")
ax.set(title="features of digits that came later", xticks=[], yticks=[])
plt.show()
