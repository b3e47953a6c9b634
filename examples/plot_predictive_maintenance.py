"""
Manufacturing: find the few machines that will fail
===================================================

In the AI4I 2020 data 339 of 10,000 runs of a milling machine end in a failure. Accuracy says little there: "never
fails" is right in 96.6 % of all cases. This example watches average precision on a validation set while the network
trains, keeps the best weights, and compares the precision-recall curve with that of a linear model.
"""

# %%
# Six columns, one of them a category. The validation rows are encoded by what was learned from the training rows.

import matplotlib.pyplot as plt
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import PrecisionRecallDisplay
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nbnet import HistoryDisplay, MLPClassifier
from nbnet.datasets import load_ai4i2020

machines = load_ai4i2020()
X, X_test, y, y_test = train_test_split(
    machines.data, machines.target, test_size=0.3, stratify=machines.target, random_state=0
)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
columns = make_column_transformer(
    (StandardScaler(), machines.numeric_features), (OneHotEncoder(), machines.categorical_features)
)
X_train = columns.fit_transform(X_train).astype("float32")
X_val, X_test = columns.transform(X_val).astype("float32"), columns.transform(X_test).astype("float32")

# %%
# ``X_val`` and ``y_val`` take the place of scikit-learn's random share of the training rows; ``scoring`` says by what
# early stopping goes.

mlp = MLPClassifier(
    (64, 32),
    activation="silu",
    learning_rate="cosine",
    learning_rate_init=0.005,
    max_iter=80,
    early_stopping=True,
    scoring="average_precision",
    n_iter_no_change=80,
    random_state=0,
)
mlp.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"{mlp.n_iter_} epochs, best average precision on the validation set {mlp.best_validation_score_:.3f}")

# %%
# Loss and validation score over the epochs.

HistoryDisplay.from_estimator(mlp)
plt.show()

# %%
# On the rows that neither model has seen:

linear = LogisticRegression(class_weight="balanced").fit(X_train, y_train)
fig, ax = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
for name, model in (("MLPClassifier", mlp), ("LogisticRegression", linear)):
    PrecisionRecallDisplay.from_estimator(model, X_test, y_test, name=name, ax=ax)
ax.set_title("Failures found, and alarms that were right")
plt.show()
