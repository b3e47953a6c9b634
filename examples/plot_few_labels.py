"""
Few labels, wrong labels: how much of the score comes back
==========================================================

Texts and images are cheap, labels are not: somebody has to read and look. This example has all labels of two sets and
hides nine tenths of them, then makes a tenth of them wrong, and asks what :mod:`nbnet.labeling` saves.
"""

# %%
# Short messages, one in eight of them spam, and handwritten digits. Every fifth sample is kept to score with.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from nbnet import ConvClassifier, TextEmbeddingClassifier
from nbnet.datasets import load_sms_spam
from nbnet.labeling import SelfTrainingClassifier, rank_label_errors, select_to_label

digits = load_digits()
sets = {"spam": load_sms_spam(return_X_y=True), "digits": (digits.images.astype(np.float32), digits.target)}
estimators = {
    "spam": TextEmbeddingClassifier(random_state=0),
    "digits": ConvClassifier(
        (16, "max_pool", 32),
        batch_size=32,
        max_iter=15,
        learning_rate="one_cycle",
        learning_rate_init=0.01,
        label_smoothing=0.2,
        random_state=0,
    ),
}


def split(name):
    X, y = sets[name]
    is_test = np.arange(len(y)) % 5 == 4
    return X[~is_test], y[~is_test], X[is_test], y[is_test]


# %%
# A tenth of the labels
# ---------------------
# Which tenth? One at random; or one that the network asks for: it learns from a first fortieth, says of which other
# samples it is least certain (:func:`~nbnet.labeling.select_to_label`), gets their labels, and so on, three times. And
# with either, :class:`~nbnet.labeling.SelfTrainingClassifier` takes the samples without a label into account: those of
# which the network is surer than 0.6. Both networks learn from smoothed labels: they never say more than 0.9 or so, and
# mean what they say. Without smoothing a network is certain of its mistakes too, and learns them.


def asked_for(estimator, X, y, n, rng):
    """Numbers of n samples."""
    known = rng.choice(len(y), n // 4, replace=False)
    while len(known) < n:
        estimator.fit(X[known], y[known])
        others = np.setdiff1d(np.arange(len(y)), known)
        wanted = select_to_label(estimator, X[others], min(n // 4, n - len(known)), "margin")
        known = np.concatenate([known, others[wanted]])
    return known


ways = ["at random", "at random,\nself-training", "asked for", "asked for,\nself-training", "all labels"]
scores = {}
for name, estimator in estimators.items():
    X, y, X_test, y_test = split(name)
    n, runs = len(y) // 10, []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        of_run = []
        for known in (rng.choice(len(y), n, replace=False), asked_for(estimator, X, y, n, rng)):
            of_run.append(estimator.fit(X[known], y[known]).score(X_test, y_test))
            partly = np.full(len(y), -1)
            partly[known] = y[known]
            model = SelfTrainingClassifier(estimator, threshold=0.6, max_iter=5).fit(X, partly)
            of_run.append(model.score(X_test, y_test))
        runs.append([*of_run, estimator.fit(X, y).score(X_test, y_test)])
    scores[name] = np.mean(runs, axis=0)
    for way, score in zip(ways, scores[name], strict=True):
        errors = 1000 * (1 - score)
        print(f"{name}, {n if way != ways[-1] else len(y)} labels {' '.join(way.split())}: {errors:.0f} of 1000 wrong")

# %%
# A tenth that the network has asked for is worth nearly all labels. Self-training helps with the digits, which lie
# apart. It does not with spam: messages that look like those of friends get the wrong label, and are learned with it.

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for ax, (name, of_set) in zip(axes, scores.items(), strict=True):
    ax.bar(ways, of_set, color=["C0", "C0", "C1", "C1", "C2"])
    ax.set(ylim=(of_set.min() - 0.01, 1), title=name, ylabel="share of right answers")
    ax.tick_params(axis="x", labelsize=8)
plt.show()

# %%
# A tenth of the labels is wrong
# ------------------------------
# :func:`~nbnet.labeling.rank_label_errors` lets networks that have not seen a sample say how far its label can be
# believed. Somebody who looks at the first tenth of that list finds most of what is wrong. What ``is_error`` marks is a
# shorter list and nearly always right: leaving it out needs nobody to look.

figure, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
for name, estimator in estimators.items():
    X, y, X_test, y_test = split(name)
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(y), len(y) // 10, replace=False)
    n_classes = len(np.unique(y))
    given = y.copy()
    given[wrong] = (given[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes

    errors = rank_label_errors(estimator, X, given)
    is_wrong = given != y
    found = np.cumsum(is_wrong[errors.order]) / len(wrong)
    marked = errors.is_error
    in_tenth, precision = found[len(wrong) - 1], is_wrong[marked].mean()
    recall = is_wrong[marked].sum() / len(wrong)
    print(f"{name}: {in_tenth:.0%} of the wrong labels are in the first tenth of the list")
    print(
        f"{name}: {marked.sum()} are marked; {precision:.0%} of these are wrong, {recall:.0%} of the wrong are marked"
    )
    answers = {
        "right labels": estimator.fit(X, y).score(X_test, y_test),
        "a tenth wrong": estimator.fit(X, given).score(X_test, y_test),
        "without those marked": estimator.fit(X[~marked], given[~marked]).score(X_test, y_test),
    }
    for labels, score in answers.items():
        print(f"{name}, {labels}: {1000 * (1 - score):.0f} of 1000 answers wrong")
    ax.plot(np.arange(1, len(y) + 1) / len(y), found, label=name)
ax.plot([0, 0.1, 0.5], [0, 1, 1], "k:", label="best possible")
ax.set(xlim=(0, 0.5), ylim=(0, 1.02), xlabel="share of the list looked at", ylabel="share of wrong labels found")
ax.legend()
plt.show()
