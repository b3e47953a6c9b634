"""
Training where the data lie
===========================

Four sites have scanned digits: different numbers of them, and the last site has never seen an 8 or a 9. With
``nbnet.dask`` they train one network in rounds; weights travel, images do not. How far from training on all images at
one place does that end, and from what each site can do alone?
"""

# %%
import dask
import matplotlib.pyplot as plt
import numpy as np
from dask.distributed import Client
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nbnet
import nbnet.dask

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X.astype(np.float32), y, test_size=600, stratify=y, random_state=0)
rest = np.flatnonzero(y < 8)[-200:]  # the last site's
others = np.setdiff1d(np.arange(len(y)), rest)
sites = [*np.split(others, [100, 350]), rest]
for number, site in enumerate(sites):
    print(f"site {number}: {len(site):3} images, of each digit {np.bincount(y[site], minlength=10)}")

# %%
# A site is a partition: here a part of a list that a worker makes, elsewhere a file that only one machine can read.

parameters = dict(max_iter=40, learning_rate="one_cycle", learning_rate_init=0.01, random_state=0)
X_parts, y_parts = ([dask.delayed(part[site]) for site in sites] for part in (X, y))

with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
    together = nbnet.dask.MLPClassifier(**parameters)
    together.fit(X_parts, y_parts, client, X_val=X_test, y_val=y_test)

# %%
# The result depends on the partitions, not on who computes: the scheduler in this process gives the same bits.

again = nbnet.dask.MLPClassifier(**parameters).fit(X_parts, y_parts)
print("equal bits:", np.array_equal(together.model_.params_, again.model_.params_))

one_place = nbnet.MLPClassifier(**parameters).fit(X, y, X_val=X_test, y_val=y_test)
alone_models = [nbnet.MLPClassifier(**parameters).fit(X[site], y[site]) for site in sites]
alone = [model.score(X_test, y_test) for model in alone_models]
print("accuracy of the sites alone:", *(f"{score:.3f}" for score in alone))
print(f"in rounds: {together.score(X_test, y_test):.3f}, at one place: {one_place.score(X_test, y_test):.3f}")

unseen = y_test >= 8
print(f"of 8 and 9: the last site alone {alone_models[-1].score(X_test[unseen], y_test[unseen]):.3f}, ", end="")
print(f"in rounds {together.score(X_test[unseen], y_test[unseen]):.3f}")

# %%
# What the sites learn together is as good as at one place, and better than what any of them can do alone.

_, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
for model, name in ((one_place, "all images at one place"), (together.model_, "four sites, in rounds")):
    ax.plot(np.arange(1, 1 + len(model.history_["val_score"])), model.history_["val_score"], label=name)
for number, score in enumerate(alone):
    ax.axhline(score, color=f"C{number + 2}", ls=":", label=f"site {number} alone")
ax.set(xlabel="epoch", ylabel="accuracy on test images", ylim=(0.6, 1))
ax.legend(fontsize="small")
plt.show()
