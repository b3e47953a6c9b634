"""Neural networks for scikit-learn users, in Numba."""

from importlib import import_module

__version__ = "0.1.0.dev0"

# public name -> module that has it; imported on first use, so that `import nbnet` compiles nothing
_PUBLIC = {
    "ConvClassifier": "nbnet.estimators.conv",
    "MLPClassifier": "nbnet.estimators.mlp",
    "MLPRegressor": "nbnet.estimators.mlp",
    "TextEmbeddingClassifier": "nbnet.estimators.text",
    "TokenTagger": "nbnet.estimators.tagger",
    "predict_clips": "nbnet.estimators.clips",
    "AttributionDisplay": "nbnet.plotting",
    "HistoryDisplay": "nbnet.plotting",
    "Augmentation": "nbnet.images",
    "ImagePreprocessor": "nbnet.images",
    "load_images": "nbnet.images",
    "load": "nbnet.estimators.stored",
    "ModelFileError": "nbnet.model_files",
    "to_onnx": "nbnet.onnx",
    "datasets": None,
    "inspection": None,
    "labeling": None,
    "metrics": None,
}

__all__ = [
    "AttributionDisplay",
    "Augmentation",
    "ConvClassifier",
    "HistoryDisplay",
    "ImagePreprocessor",
    "MLPClassifier",
    "MLPRegressor",
    "ModelFileError",
    "TextEmbeddingClassifier",
    "TokenTagger",
    "__version__",
    "datasets",
    "inspection",
    "labeling",
    "load",
    "load_images",
    "metrics",
    "predict_clips",
    "to_onnx",
]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _PUBLIC[name]
    value = import_module(f"nbnet.{name}") if module is None else getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
