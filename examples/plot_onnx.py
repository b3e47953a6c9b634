"""
The same network in another runtime
===================================

A classifier of handwritten digits becomes an ONNX graph, which onnxruntime computes without nbnet. How far are its
probabilities from those of the estimator?
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

import nbnet

digits = load_digits()
X, y = digits.images.astype(np.uint8), digits.target
model = nbnet.ConvClassifier.resnet(max_iter=5, random_state=0).fit(X[:1400], y[:1400])

graph = nbnet.to_onnx(model, input_dtype="uint8")
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
labels, probabilities = session.run(None, {"X": X[1400:, :, :, np.newaxis]})
print(f"{np.mean(labels == y[1400:]):.3f} of the later digits are right, in {len(graph.graph.node)} operators")

# %%
# The differences are those of float32 arithmetic in another order, far below what decides between two digits.

expected = model.predict_proba(X[1400:])
differences = np.abs(probabilities - expected).max(axis=1)
margins = np.diff(np.sort(expected, axis=1)[:, -2:], axis=1)[:, 0]

_, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
bins = np.geomspace(1e-10, 1, 60)
ax.hist(np.maximum(differences, bins[0]), bins, label="onnxruntime - nbnet, the largest of ten")
ax.hist(np.maximum(margins, bins[0]), bins, label="most probable digit - the next one")
ax.set(xscale="log", xlabel="difference of probabilities", ylabel="images")
ax.legend(loc="upper left")
plt.show()
