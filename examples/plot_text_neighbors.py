"""
Texts like this one: document vectors below a nearest-neighbor search
=====================================================================

``transform`` gives each text a vector, in which texts of the same class lie near each other. So the classifier can be a
step in front of any other estimator: here of a search for the poems most like a given one.
"""

# %%
# Four kinds of classical Chinese verse; every fifth poem is a question, the others are searched.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from nbnet import TextEmbeddingClassifier
from nbnet.datasets import load_poetry_genre_zh

poems = load_poetry_genre_zh()
is_question = np.arange(len(poems.data)) % 5 == 4
X, y = poems.data[~is_question], poems.target[~is_question]
questions, kinds = poems.data[is_question], poems.target[is_question]

# %%
# The search is a pipeline: vectors of one length, so that near means in the same direction. ``y`` goes to the
# classifier; the search itself has no use for it.

N_FOUND = 50
learned = make_pipeline(TextEmbeddingClassifier(random_state=0), Normalizer(), NearestNeighbors(n_neighbors=N_FOUND))
learned.fit(X, y)
counted = make_pipeline(
    TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True), NearestNeighbors(n_neighbors=N_FOUND)
)
counted.fit(X)


def find(search, texts):
    """Numbers of the poems nearest to each text, the nearest first."""
    return search[-1].kneighbors(search[:-1].transform(texts), return_distance=False)


# %%
# How many of the poems found are of the kind of the question, when 1, 2, ... 50 are asked for? TF-IDF knows which
# characters two poems share. The learned vectors know also which characters tell the kinds apart.

shares = {}
for name, search in (("vectors of nbnet", learned), ("TF-IDF", counted)):
    right_kind = y[find(search, questions)] == kinds[:, None]
    shares[name] = np.cumsum(right_kind, axis=1).mean(axis=0) / np.arange(1, N_FOUND + 1)
    print(
        f"{name:<16}  of 1: {shares[name][0]:.2f}   of 10: {shares[name][9]:.2f}   of {N_FOUND}: {shares[name][-1]:.2f}"
    )

# %%
# One question and the three poems nearest to it:

number = int(np.flatnonzero(kinds == poems.target_names.index("tang_shi"))[0])
print("question:", questions[number][:32])
for i in find(learned, questions)[number, :3]:
    print(f"  {poems.target_names[y[i]]}: {X[i][:32]}")

# %%
# The vectors in two dimensions (left), and the shares of the right kind (right).

plane = PCA(n_components=2, random_state=0).fit(learned[:-1].transform(X))
places = plane.transform(learned[:-1].transform(questions))
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
for kind, name in enumerate(poems.target_names):
    left.scatter(*places[kinds == kind].T, s=12, label=name)
left.set(title="Questions, by their kind", xlabel="first component", ylabel="second component")
left.legend()
for name, share in shares.items():
    right.plot(np.arange(1, N_FOUND + 1), share, label=name)
right.set(title="Neighbors of the question's kind", xlabel="poems asked for", ylabel="share", ylim=(0.2, 1))
right.axhline(0.25, color="tab:gray", linestyle=":", label="by chance")
right.legend()
plt.show()
