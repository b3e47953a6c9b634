"""
Why? What a table's columns, a text's words, an image's pixels have to do with the answer
=========================================================================================

A bank must tell a customer why, a doctor wants to see where, an engineer asks which sensor it was.
:func:`nbnet.inspection.attributions` divides an output of a fitted network among its inputs, and
:class:`~nbnet.AttributionDisplay` shows the shares: red speaks for the class that is explained, blue against it.
"""

# %%
# Which sensor it was
# -------------------
# A milling machine fails if it can no longer shed its heat, if its power is too low or too high, or if a worn tool is
# strained: rules of the data's makers, which the network is not told. The pipeline scales the columns, so that zero,
# with which each run is compared, is the mean of all runs.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nbnet import AttributionDisplay, ConvClassifier, MLPClassifier, TextEmbeddingClassifier
from nbnet.datasets import load_ai4i2020, load_sms_spam
from nbnet.inspection import attributions

machines = load_ai4i2020()
runs = pd.DataFrame(machines.data, columns=machines.feature_names)
columns = make_column_transformer(
    (StandardScaler(), machines.numeric_features),
    (OneHotEncoder(), machines.categorical_features),
    verbose_feature_names_out=False,
)
settings = {"activation": "silu", "learning_rate": "cosine", "learning_rate_init": 0.005, "max_iter": 40}
model = make_pipeline(columns, MLPClassifier((64, 32), **settings, random_state=0))
model.fit(runs, machines.target)
probabilities = model.predict_proba(runs)[:, 1]
worst = np.argsort(-probabilities, kind="stable")[[0, 40, 80]]

figure, axes = plt.subplots(1, 3, figsize=(14, 3), layout="constrained")
for ax, run in zip(axes, worst, strict=True):
    AttributionDisplay.from_estimator(model, runs[run : run + 1], target=1, ax=ax, name=f"run {run}")
plt.show()

# %%
# Integrated gradients, the default, add up: the shares of a run and what the network says of the mean run make up what
# it says of this one, but for the error of a sum that stands for an integral.

found = attributions(model, runs.iloc[worst], target=1)
for run, output, baseline_output, values, gap in zip(
    worst, found.output, found.baseline_output, found.values, found.gap, strict=True
):
    print(f"run {run}: {baseline_output:.3f} + {values.sum():.3f} + gap {gap:+.4f} = {output:.3f}")

# %%
# Which words it was
# ------------------
# A text is divided among its tokens; n-grams belong to their words in equal parts. ``print`` colors a terminal.

texts, is_spam = load_sms_spam(return_X_y=True)
filter_ = TextEmbeddingClassifier(random_state=0).fit(texts[:4000], is_spam[:4000])
chosen = texts[4000:][filter_.predict(texts[4000:]) == 1][[1, 2, 5, 7]]
AttributionDisplay.from_estimator(filter_, chosen, target=1, output="probability")

# %%
# Which pixels it was
# -------------------
# Four methods, one question: why is this a three? Integrated gradients are compared with an image of the mean gray.
# Occlusion covers squares with it, and asks nothing of the network's slopes. Grad-CAM shows where the last convolution
# has found what speaks for the class, coarser and without what speaks against it.

digits = load_digits()
images = digits.images.astype(np.float32)
reader = ConvClassifier(
    (16, "max_pool", 32),
    batch_size=32,
    max_iter=15,
    learning_rate="one_cycle",
    learning_rate_init=0.01,
    random_state=0,
)
reader.fit(images[:1400], digits.target[:1400])
threes = images[1400:][digits.target[1400:] == 3][:6]
for method in ("integrated_gradients", "gradient_x_input", "occlusion", "grad_cam"):
    AttributionDisplay.from_estimator(reader, threes, target=3, method=method, name=method)
plt.show()

# %%
# Each is a definition of "because", and none is the truth about the network. Where they disagree, look closer.
