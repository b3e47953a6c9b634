"""Classes of short videos."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nbnet import predict_clips
from nbnet.estimators import clips


class Brightness:
    """Predicts how bright an image is."""

    classes_ = np.array(["dark", "light"])

    def predict_proba(self, X):
        self.most = max(getattr(self, "most", 0), len(X))
        light = X.reshape(len(X), -1).mean(axis=1)
        return np.stack([1 - light, light], axis=1)


def test_means_over_frames():
    X = np.array([[0.1, 0.9, 0.8], [0.2, 0.6, 0.1]])[:, :, np.newaxis, np.newaxis, np.newaxis] * np.ones((4, 5, 3))
    labels, probabilities = predict_clips(Brightness(), X)
    assert_array_equal(labels, ["light", "dark"])
    assert_allclose(probabilities[:, 1], [0.6, 0.3])


def test_clips_of_any_length_by_blocks(monkeypatch):
    monkeypatch.setattr(clips, "FRAMES", 2)
    model = Brightness()
    labels, probabilities = predict_clips(model, [np.zeros((5, 2, 2)), np.ones((1, 2, 2))])
    assert_array_equal(labels, ["dark", "light"])
    assert_allclose(probabilities, np.eye(2))
    assert model.most == 2


def test_clips_without_frames():
    with pytest.raises(ValueError, match="clip 1 has no frames"):
        predict_clips(Brightness(), [np.zeros((5, 2, 2)), np.ones((0, 2, 2))])
    with pytest.raises(ValueError, match="there are no clips"):
        predict_clips(Brightness(), [])
