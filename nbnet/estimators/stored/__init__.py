"""Model files: what of a fitted estimator is kept, and how it is made again from a file that is not trusted.

No layer table is stored. A file has the few numbers that the layers follow from, the table is built from them as in
`fit`, and each weight is an array of its own, without pads, whose shape must be that of its place in the table. So a
file outlives changes of the layout, other programs can read it, and no kernel ever meets an offset from a file.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ...images import Augmentation
from ...model_files import Arrays, Fields, ModelFileError, encode, read_file, refusing, write_file
from ...progress import decode_progress, encode_progress
from .layers import read_tensors, tensors_of

FIT_ONLY = ("class_weight", "pretrained_embeddings", "random_state", "scoring")  # None where no file can hold them
MOST_WORKERS = 1024


class Kind(NamedTuple):
    """Where an estimator's class is, and the module here that knows it.

    That module has ``describe(estimator, header, arrays)``, which adds what was learned, weights and curves apart,
    ``restore(estimator, header, arrays, dtype)``, which sets it on an estimator and returns the network, and where
    there is more to do when the weights are there, ``complete(estimator)``.
    """

    of_class: str
    of_parts: str


KINDS = {
    "MLPClassifier": Kind("mlp", "tables"),
    "MLPRegressor": Kind("mlp", "tables"),
    "ConvClassifier": Kind("conv", "images"),
    "TextEmbeddingClassifier": Kind("text", "texts"),
    "TokenTagger": Kind("tagger", "taggers"),
}


def class_named(name: str) -> type:
    """The class of an estimator."""
    return getattr(import_module(f"..{KINDS[name].of_class}", __package__), name)


def parts_of(name: str):
    """The module that knows an estimator."""
    return import_module(f".{KINDS[name].of_parts}", __package__)


def save(estimator, path) -> None:
    """Write a fitted estimator to a file: the method `save` of the estimators."""
    check_is_fitted(estimator)
    estimator._validate_params()
    check_n_jobs(estimator.n_jobs)
    name = type(estimator).__name__
    if name not in KINDS or type(estimator) is not class_named(name):
        raise ValueError(f"{name} is none of the estimators that model files know: {sorted(KINDS)}.")
    trained = estimator._trained
    if not np.isfinite(trained.params_).all():
        raise ValueError("params_ has numbers that are not finite; a model file holds finite weights only.")
    arrays = tensors_of(trained.network_.layers, trained.params_)
    header = {
        "estimator": name,
        "parameters": encode_parameters(estimator),
        "dtype": trained.params_.dtype.name,
        "progress": encode_progress(vars(trained), arrays),
    }
    parts_of(name).describe(estimator, header, arrays)
    write_file(path, "model", header, arrays)


def load(path):
    """Read a fitted estimator from a file that its method `save` has written.

    The file is not trusted: no code is in it, all of it is checked before it is used, and memory is bounded by its
    size. The estimator's predictions have the same bits as those of the one that was saved. `partial_fit` and
    ``warm_start`` go on from its weights, with new moments of the optimizer.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    estimator : MLPClassifier, MLPRegressor, TextEmbeddingClassifier, ConvClassifier or TokenTagger
        The fitted estimator.

    Raises
    ------
    ModelFileError
        If the file is no model of nbnet, or damaged, or made to do harm.
    OSError
        If the file cannot be read.
    ImportError
        Without the package safetensors.

    Examples
    --------
    >>> import os, tempfile
    >>> import nbnet
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = nbnet.MLPClassifier(solver="lbfgs", input_scaling="standard", random_state=0).fit(X, y)
    >>> path = os.path.join(tempfile.mkdtemp(), "iris.safetensors")
    >>> model.save(path)
    >>> bool((nbnet.load(path).predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    header, arrays = read_file(path, "model")
    with refusing(os.fspath(path)):
        return restored(header, arrays)


def restored(header: Fields, arrays: Arrays):
    """The estimator of a file's contents, all of which is checked."""
    header.take("versions")
    name = header.choice("estimator", KINDS)
    dtype = np.dtype(header.choice("dtype", ("float32", "float64")))
    estimator = decode_parameters(class_named(name), header.fields("parameters"))
    progress = decode_progress(header.fields("progress"), arrays)
    network = parts_of(name).restore(estimator, header, arrays, dtype)
    header.finish()
    params = read_tensors(network, arrays, dtype)
    arrays.finish()
    trained = estimator._trained
    vars(trained).update(progress)
    vars(trained).update(params_=params, network_=network, _latest_params=None, _optimizer=None)
    if hasattr(parts_of(name), "complete"):
        parts_of(name).complete(estimator)
    return estimator


def encode_parameters(estimator) -> dict:
    """All parameters; of those that only `fit` uses, None where no file can hold them, with a warning."""
    encoded, left_out = {}, []
    for name, value in estimator.get_params(deep=False).items():
        try:
            if name == "pretrained_embeddings" and not isinstance(value, (str, os.PathLike, type(None))):
                raise TypeError("vectors are data, of which a file holds those that are used")
            encoded[name] = encode(value)
        except TypeError as error:
            if name not in FIT_ONLY:
                raise ValueError(f"{name}={value!r:.60} cannot be saved: {error}.") from None
            encoded[name] = None
            left_out.append(name)
    if left_out:
        message = f"The model file has None for {', '.join(left_out)}: it cannot hold the value. Predictions need none."
        warnings.warn(message, stacklevel=4)
    return encoded


def decode_parameters(cls: type, fields: Fields):
    """An estimator with these parameters, all within their constraints; those that a file lacks are younger than it."""
    values = {name: fields.value(name) for name in cls().get_params(deep=False) if name in fields.entries}
    fields.finish()
    if isinstance(values.get("augment"), tuple):
        values["augment"] = Augmentation(*values["augment"])
    estimator = cls(**values)
    estimator._validate_params()
    check_n_jobs(estimator.n_jobs)
    return estimator


def check_n_jobs(n_jobs: int | None) -> None:
    """Raise for more threads than a file may ask for."""
    if n_jobs is not None and n_jobs > MOST_WORKERS:
        raise ModelFileError(f"n_jobs={n_jobs} in a model file is more than {MOST_WORKERS}.")
