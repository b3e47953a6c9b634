"""Made the files of format 1 that lie here, in November 2026. They stay as they are; a new format gets new ones."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from nbnet import ConvClassifier, MLPClassifier, MLPRegressor, TextEmbeddingClassifier, TokenTagger

HERE = Path(__file__).parent


def table(n: int = 24) -> pd.DataFrame:
    """Four columns of numbers that need no generator."""
    return pd.DataFrame({name: np.sin((i + 1) * np.arange(1.0, n + 1)) for i, name in enumerate("abcd")})


def images(n: int = 12) -> np.ndarray:
    """Images 6x6 of two channels."""
    return (np.arange(n * 72) * 37 % 251).astype(np.uint8).reshape(n, 6, 6, 2)


def texts() -> list[str]:
    """Eight texts, some of them not ASCII."""
    words = ["good", "bad", "film", "naïve", "中文", ":-)", "don't", "long"]
    return [" ".join(words[(i * k) % 8] for k in (1, 2, 3, 5)) for i in range(8)]


def sentences() -> tuple[list[list[str]], list[list[str]]]:
    """Twelve sentences of three tokens, and tags of the tokens."""
    names, verbs = ["Ada", "Åsa", "Bo"], ["saw", "met"]
    X = [[names[i % 3], verbs[i % 2], ["Oslo", "中国", "Ada"][i // 2 % 3]] for i in range(12)]
    return X, [["B-name", "O", "B-name" if x[2] == "Ada" else "B-place"] for x in X]


def input_of(name: str):
    """What the model of this name predicts from."""
    return {"mlp": table, "conv": images, "text": texts, "tagger": lambda: sentences()[0]}[name.split("_")[0]]()


def predictions_of(model, name: str) -> list:
    """Rows of probabilities, or predicted values."""
    predictions = getattr(model, "predict_proba", model.predict)(input_of(name))
    return np.concatenate(list(predictions)).tolist() if name == "tagger" else predictions.tolist()


def models() -> dict:
    """Fitted models by name."""
    X, k = table(), np.arange(24)
    short = dict(max_iter=3, random_state=0)
    own = dict(short, embedding_dim=4, n_buckets=64)
    labels = np.array(["no", "perhaps", "yes"], object)
    indicator = np.stack([np.arange(8) % 2, np.arange(8) % 3 > 0], axis=1)
    layers = (4, "max_pool", ("residual", 16, 2), "global_avg_pool")
    return {
        "mlp_classifier": MLPClassifier((3,), input_scaling="robust", **short).fit(X, labels[k % 3]),
        "mlp_binary": MLPClassifier((2,), "tanh", early_stopping=True, dtype="float32", **short).fit(X, k % 2 > 0),
        "mlp_regressor": MLPRegressor("poisson", (3, 2), **short).fit(X, np.stack([k, k % 5], axis=1)),
        "conv_classifier": ConvClassifier(layers, (4,), batch_norm=True, **short).fit(images(), np.arange(12) % 3),
        "text_classifier": TextEmbeddingClassifier(
            hidden_layer_sizes=(3,), loss="hierarchical_softmax", subword_range=(3, 4), pooling="attention", **own
        ).fit(texts(), np.arange(8) % 4),
        "tagger": TokenTagger(4, (3,), activation="tanh", window=1, context=2, max_iter=20, random_state=0).fit(
            *sentences()
        ),
        "text_labels": TextEmbeddingClassifier(loss="one_vs_all", **own).fit(texts(), sp.csr_array(indicator)),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    expected = {}
    for name, model in models().items():
        model.save(HERE / f"{name}_1.safetensors")
        expected[name] = predictions_of(model, name)
    (HERE / "expected_1.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
