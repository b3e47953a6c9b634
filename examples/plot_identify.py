"""
Who is it? Identification by features and nearest neighbors
===========================================================

A door camera must know people who were not there when the network was trained; so must a scanner that is shown a new
part. The network then serves as an eye: ``transform`` gives what its last layer sees, and images of one person or part
lie near each other there. Here the network learns the digits 0 to 6; the digits 7, 8 and 9 come later, with five
examples each.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from nbnet import ConvClassifier

digits = load_digits()
X, y = digits.images.astype(np.float32), digits.target
known = y < 7
network = ConvClassifier(
    (16, "max_pool", 32),
    (32,),
    augment={"shift": 1, "rotation": 10},
    batch_size=32,
    max_iter=30,
    learning_rate="one_cycle",
    learning_rate_init=0.01,
    random_state=0,
)
network.fit(X[known], y[known])

# %%
# Five images of each new digit are enrolled. The direction of a feature vector says what an image is, its length how
# clear it is: vectors are brought to length one before they are compared.


def features(images):
    return normalize(network.transform(images))


new = np.flatnonzero(~known)
enrolled = np.concatenate([new[y[new] == digit][:5] for digit in (7, 8, 9)])
others = np.setdiff1d(new, enrolled)
for name, represent in (("pixels", lambda images: images.reshape(len(images), -1)), ("features", features)):
    neighbors = KNeighborsClassifier(3).fit(represent(X[enrolled]), y[enrolled])
    print(f"{name}: {neighbors.score(represent(X[others]), y[others]):.3f} of {len(others)} new images are right")

# %%
# The new digits in the plane of their largest variance: three groups, which the network was never shown.

plane = PCA(2).fit_transform(features(X[new]))
_, ax = plt.subplots(figsize=(5, 4), layout="constrained")
for digit in (7, 8, 9):
    some = y[new] == digit
    ax.scatter(*plane[some].T, s=8, label=str(digit))
ax.legend(title="digit")
ax.set(title="features of digits that came later", xticks=[], yticks=[])
plt.show()
