"""
Spam: raw messages through a pipeline and a grid search
=======================================================

``TextEmbeddingClassifier`` takes texts as they are, so it can be the only step of a pipeline. This example puts one
before it: phone numbers and prices differ in every advertisement, and the classifier should see that there is a number
of eleven digits, not which. A grid search says whether that helps, and how much of the words' order to look at.
"""

# %%
# 5,160 short messages, one in eight of them spam. Every fifth is kept for the end.

import re

import matplotlib.pyplot as plt
import numpy as np
from joblib import parallel_config
from sklearn.metrics import PrecisionRecallDisplay, average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from nbnet import TextEmbeddingClassifier
from nbnet.datasets import load_sms_spam

X, y = load_sms_spam(return_X_y=True)
is_test = np.arange(len(X)) % 5 == 4
X_train, y_train, X_test, y_test = X[~is_test], y[~is_test], X[is_test], y[is_test]

# %%
# The step before: each digit becomes a zero, so that 08712300220 and 09061701461 are one word.


def hide_digits(texts):
    return [re.sub(r"\d", "0", text) for text in texts]


def make_pipeline(digits="passthrough"):
    return Pipeline([("digits", digits), ("classifier", TextEmbeddingClassifier(random_state=0))])


# %%
# Digits as they are or hidden; single words, or pairs or triples of neighbors as well; four folds. The texts are not
# copied to other processes: nbnet trains outside Python's global lock, and threads are enough.

hide = FunctionTransformer(hide_digits)
grid = {"digits": ["passthrough", hide], "classifier__ngram_range": [(1, 1), (1, 2), (1, 3)]}
folds = StratifiedKFold(4, shuffle=True, random_state=0)
search = GridSearchCV(make_pipeline(), grid, scoring="average_precision", cv=folds)
with parallel_config("threading", n_jobs=2):
    search.fit(X_train, y_train)

# %%
# Rows and columns of the grid as a table, in the order of ``cv_results_``: n-grams first, digits second.

scores = search.cv_results_["mean_test_score"].reshape(3, 2)
for n_grams, (as_they_are, hidden) in zip(grid["classifier__ngram_range"], scores, strict=True):
    print(f"n-grams {n_grams}: average precision {as_they_are:.4f} with digits as they are, {hidden:.4f} with zeros")

# %%
# On the messages kept for the end. A filter must not swallow what friends write: of interest is how much spam is found
# while at most five messages of a thousand are lost.

models = {"digits as they are": make_pipeline().fit(X_train, y_train), "chosen by the search": search.best_estimator_}
for name, model in models.items():
    spam = model.predict_proba(X_test)[:, 1]
    of_friends = np.sort(spam[y_test == 0])
    n_lost = int(0.005 * len(of_friends))
    found = spam[y_test == 1] > of_friends[-1 - n_lost]
    print(
        f"{name}: average precision {average_precision_score(y_test, spam):.4f}; "
        f"{found.sum()} of {len(found)} found, {n_lost} of {len(of_friends)} messages lost"
    )

# %%
# The search on the left, the curves of both models on the right.

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
image = left.imshow(scores, cmap="viridis")
for (i, j), score in np.ndenumerate(scores):
    left.text(j, i, f"{score:.4f}", ha="center", va="center", color="white" if score < scores.mean() else "black")
left.set_xticks(range(2), ["as they are", "hidden"])
left.set_yticks(range(3), ["words", "and pairs", "and triples"])
left.set(xlabel="digits", ylabel="n-grams", title="Average precision in four folds")
for name, model in models.items():
    PrecisionRecallDisplay.from_estimator(model, X_test, y_test, name=name, ax=right)
right.set(xlim=(0.7, 1.01), ylim=(0.7, 1.01), title="Messages not seen in training")
plt.show()
