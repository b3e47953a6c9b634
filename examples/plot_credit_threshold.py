"""
Finance: refuse a loan at the right threshold
=============================================

A bank that accepts a bad loan loses far more than one that refuses a good loan: the makers of the German credit data
set the ratio at five to one. A classifier that says "bad" from a probability of one half on does not know that. There
are two remedies, and this example compares them: weigh the classes in training, or move the threshold afterwards.
"""

# %%
# The table has 7 columns of numbers and 13 of categories. The pipeline encodes both, so that the whole model takes the
# raw table.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.metrics import confusion_matrix, make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nbnet import MLPClassifier
from nbnet.datasets import load_german_credit

credit = load_german_credit()
X_train, X_test, y_train, y_test = train_test_split(
    credit.data, credit.target, test_size=0.4, stratify=credit.target, random_state=0
)


def make_model(class_weight=None):
    columns = make_column_transformer(
        (StandardScaler(), credit.numeric_features),
        (OneHotEncoder(handle_unknown="ignore"), credit.categorical_features),
    )
    mlp = MLPClassifier(
        (32,), alpha=1.0, dropout=0.3, max_iter=60, tol=1e-2, class_weight=class_weight, dtype="float32", random_state=0
    )
    return make_pipeline(columns, mlp)


# %%
# What a decision costs, per loan: 5 for an accepted bad one, 1 for a refused good one.


def mean_cost(y_true, y_pred):
    accepted_bad = np.mean((y_true == 1) & (y_pred == 0))
    refused_good = np.mean((y_true == 0) & (y_pred == 1))
    return 5 * accepted_bad + refused_good


cost_scorer = make_scorer(mean_cost, greater_is_better=False)

# %%
# Three models: as it comes; with class weights five to one; and with a threshold tuned by cost in cross-validation.

plain = make_model().fit(X_train, y_train)
weighted = make_model(class_weight={0: 1, 1: 5}).fit(X_train, y_train)
tuned = TunedThresholdClassifierCV(make_model(), scoring=cost_scorer, cv=5, store_cv_results=True)
tuned.fit(X_train, y_train)

models = {"threshold 0.5": plain, "class_weight 1 : 5": weighted, f"threshold {tuned.best_threshold_:.2f}": tuned}
costs = {name: mean_cost(y_test, model.predict(X_test)) for name, model in models.items()}
for name, cost in costs.items():
    print(
        f"{name:<20} mean cost {cost:.3f}   confusion {confusion_matrix(y_test, models[name].predict(X_test)).tolist()}"
    )

# %%
# Refusing every loan costs 0.7, accepting every loan 1.5.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(tuned.cv_results_["thresholds"], -tuned.cv_results_["scores"])
left.axvline(tuned.best_threshold_, color="tab:red", linestyle="--", label=f"chosen: {tuned.best_threshold_:.2f}")
left.set(xlabel="refuse from this probability of a bad loan on", ylabel="mean cost", title="in cross-validation")
left.legend()
right.barh(list(costs), list(costs.values()), color=["tab:gray", "tab:blue", "tab:red"])
right.invert_yaxis()
right.set(xlabel="mean cost", title="on loans not seen in training")
plt.show()
