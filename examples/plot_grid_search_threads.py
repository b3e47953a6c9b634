"""
A grid search in threads, with the same bits
============================================

nbnet trains outside Python's global lock, so a grid search can run in threads: nothing is copied to other processes,
and no process has to start and compile. :class:`~nbnet.model_selection.NetworkSearchCV` is scikit-learn's
``GridSearchCV`` made that way; all its fits read one X. The result is ``GridSearchCV``'s for any number of jobs, to the
last bit, and this example checks it.
"""

# %%
# Does a student pass Portuguese? 649 rows of circumstances, without earlier grades.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nbnet import MLPClassifier
from nbnet.datasets import load_student_performance
from nbnet.model_selection import NetworkSearchCV

students = load_student_performance()
columns = make_column_transformer(
    (StandardScaler(), students.numeric_features),
    (OneHotEncoder(sparse_output=False), students.categorical_features),
)
X = columns.fit_transform(students.data).astype("float32")
y = students.target

# %%
# Five penalties and five widths, in five folds: 125 fits.

grid = {"alpha": [0.01, 0.1, 1.0, 10.0, 100.0], "hidden_layer_sizes": [(4,), (8,), (16,), (32,), (64,)]}


def search(kind, n_jobs):
    mlp = MLPClassifier(solver="adam", learning_rate_init=0.01, max_iter=1000, tol=1e-3, random_state=0)
    start = time.perf_counter()
    found = kind(mlp, grid, scoring="roc_auc", cv=StratifiedKFold(5), n_jobs=n_jobs).fit(X, y)
    print(f"{kind.__name__}, {n_jobs} thread(s): {time.perf_counter() - start:.2f} s, best {found.best_params_}")
    return found


MLPClassifier(early_stopping=True, random_state=0).fit(X, y)  # the first fit may compile: not to be timed
alone, together = search(GridSearchCV, n_jobs=1), search(NetworkSearchCV, n_jobs=2)

# %%
# Equal scores in all 25 cells, and equal weights of the best network:

for key in ("mean_test_score", "std_test_score"):
    np.testing.assert_array_equal(alone.cv_results_[key], together.cv_results_[key])
np.testing.assert_array_equal(alone.best_estimator_.params_, together.best_estimator_.params_)

# %%
# A stronger penalty serves this small table better than a wider layer.

scores = together.cv_results_["mean_test_score"].reshape(len(grid["alpha"]), -1)
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
image = ax.imshow(scores, cmap="viridis")
for (i, j), score in np.ndenumerate(scores):
    ax.text(j, i, f"{score:.2f}", ha="center", va="center", color="white" if score < scores.mean() else "black")
ax.set_xticks(range(len(grid["hidden_layer_sizes"])), [str(*sizes) for sizes in grid["hidden_layer_sizes"]])
ax.set_yticks(range(len(grid["alpha"])), [f"{alpha:g}" for alpha in grid["alpha"]])
ax.set(xlabel="width of the hidden layer", ylabel="alpha", title="ROC AUC in five folds")
fig.colorbar(image)
plt.show()
