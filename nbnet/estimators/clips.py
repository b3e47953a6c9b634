"""Videos as many images: predictions averaged over the frames of clips."""

from __future__ import annotations

import numpy as np

FRAMES = 4096  # predicted at a time


def predict_clips(model, X) -> tuple[np.ndarray, np.ndarray]:
    """Classes of clips: the mean of the probabilities of their frames decides.

    Parameters
    ----------
    model : fitted classifier
        With `predict_proba` for images: a `ConvClassifier`, or a pipeline that ends in one.
    X : ndarray (n_clips, n_frames, height, width[, channels]) or sequence of such arrays, one a clip
        The frames of each clip; in a sequence, clips may differ in length. A memory-mapped array is read clip by clip.

    Returns
    -------
    labels : ndarray (n_clips,)
        The most probable class of each clip.
    probabilities : ndarray (n_clips, n_classes)
        In the order of ``model.classes_``.

    Raises
    ------
    ValueError
        For a clip without frames; says which.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnet import ConvClassifier, predict_clips
    >>> clips = np.random.default_rng(0).normal(size=(6, 5, 8, 8)).astype("float32")
    >>> clips[3:, :, :4] += 2
    >>> model = ConvClassifier((4,), (), max_iter=20, learning_rate="one_cycle", learning_rate_init=0.05)
    >>> model = model.fit(clips.reshape(30, 8, 8), np.repeat([0, 0, 0, 1, 1, 1], 5))
    >>> predict_clips(model, clips)[0]
    array([0, 0, 0, 1, 1, 1])
    """
    for i, clip in enumerate(X):
        if not len(clip):
            raise ValueError(f"clip {i} has no frames")
    if not len(X):
        raise ValueError("there are no clips")
    means = []
    for clip in X:
        blocks = (clip[start : start + FRAMES] for start in range(0, len(clip), FRAMES))
        means.append(sum(model.predict_proba(block).sum(axis=0) for block in blocks) / len(clip))
    probabilities = np.array(means)
    return model.classes_[probabilities.argmax(axis=1)], probabilities
