"""nbnet and fastText, each in a child process of its own: training, predicting, quality, memory.

`worker.py` finds these tasks by their names. fastText's child may run under another interpreter, which needs fastText,
NumPy and threadpoolctl only: so nothing here is imported before it is needed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

from .memory import restart_peak, status_bytes
from .text_data import read


class TextCase(NamedTuple):
    """What both sides train: fastText's model with the same dimension, rate, epochs and n-grams."""

    train: str  # files as fastText reads them
    test: str
    n_grams: int = 1
    epochs: int = 5
    rate: float = 0.5
    dim: int = 100
    n_buckets: int = 2**20
    seed: int = 0
    nbnet: str = "sgd"  # how nbnet trains: a name of `NBNET_SETTINGS`

    @property
    def several_labels(self) -> bool:
        return "cooking" in Path(self.train).name


# ---------------------------------------------------------------- fastText


class FastText:
    """fastText's `train_supervised` from its file."""

    def __init__(self, case: TextCase, n_threads: int):
        import fasttext

        self.case, self.n_threads = case, n_threads
        self.train_supervised = fasttext.train_supervised
        self.setting = f"thread={n_threads}"

    def fit(self) -> None:
        case = self.case
        settings = dict(wordNgrams=case.n_grams, epoch=case.epochs, lr=case.rate, dim=case.dim, bucket=case.n_buckets)
        self.model = self.train_supervised(
            case.train, **settings, seed=case.seed, minCount=1, thread=self.n_threads, verbose=0
        )

    def scores(self) -> dict[str, float]:
        _, precision, recall = self.model.test(self.case.test)
        return {"accuracy": precision, "recall": recall}

    def prepare(self, texts: list[str]) -> list[str]:
        return [text + "\n" for text in texts]

    def predict(self, lines: list[str]):
        """Below the Python wrapper, whose arrays NumPy 2 refuses, and which costs time."""
        return self.model.f.multilinePredict(lines, 1, 0.0, "strict")

    def predict_one(self, line: str):
        return self.model.f.predict(line, 1, 0.0, "strict")


# ---------------------------------------------------------------- nbnet


FASTTEXT_BATCH = 16  # texts whose gradients are summed: as good as one at a time; from 32 on rate 0.5 may diverge
END_OF_LINE = "endofline"  # fastText puts one more token behind each text, and so must who compares


def as_fasttext(case: TextCase) -> dict:
    """The model and the training of fastText."""
    return dict(
        embedding_dim=case.dim,
        ngram_range=(1, case.n_grams),
        n_buckets=case.n_buckets,
        pooling="mean",
        boundary_tokens=False,
        token_weights=None,
        sublinear_tf=False,
        label_smoothing=0.0,
        sample_labels=True,
        solver="sgd",
        batch_size=FASTTEXT_BATCH,
        learning_rate="linear",
        learning_rate_init=case.rate,
        max_iter=case.epochs,
        n_iter_no_change=case.epochs + 1,
        target_loss=None,
    )


def as_fasttext_split_at_blanks(case: TextCase) -> dict:
    return as_fasttext(case) | dict(token_pattern=r"\S+", lowercase=False)


def by_default_as_long(case: TextCase) -> dict:
    """nbnet's own model and solver, its n-grams and epochs those of the case."""
    n_epochs = dict(max_iter=case.epochs, n_iter_no_change=case.epochs + 1, target_loss=None)
    return dict(embedding_dim=case.dim, ngram_range=(1, case.n_grams), **n_epochs)


def by_default(case: TextCase) -> dict:
    return {}


NBNET_SETTINGS = {
    "sgd": as_fasttext,
    "sgd, split at blanks": as_fasttext_split_at_blanks,
    "adagrad": by_default_as_long,
    "defaults": by_default,
}


class Nbnet:
    """`TextEmbeddingClassifier` from a list of str."""

    def __init__(self, case: TextCase, n_threads: int):
        import numpy as np

        from nbnet import TextEmbeddingClassifier

        self.case = case
        parameters = NBNET_SETTINGS[case.nbnet](case)
        self.estimator = TextEmbeddingClassifier(**parameters, random_state=case.seed, n_jobs=n_threads)
        self.setting = case.nbnet
        X, y = read(Path(case.train))
        self.X = self.prepare(X)
        if case.several_labels:
            from sklearn.preprocessing import MultiLabelBinarizer

            self.y = MultiLabelBinarizer().fit_transform(y)
        else:
            self.y = np.array([label for (label,) in y])
        n_warm = min(len(self.X), 2000)
        self.estimator.fit(self.X[:n_warm], self.y[:n_warm])
        self.estimator.predict(self.X[:n_warm])

    def fit(self) -> None:
        self.estimator.fit(self.X, self.y)

    def scores(self) -> dict[str, float]:
        X, y = read(Path(self.case.test))
        X = self.prepare(X)
        if self.case.several_labels:
            classes = sorted({label for labels in read(Path(self.case.train))[1] for label in labels})
            best = [classes[k] for k in self.estimator.predict_proba(X).argmax(1)]
            hits = sum(label in labels for label, labels in zip(best, y, strict=True))
            return {"accuracy": hits / len(y), "recall": hits / sum(map(len, y))}
        found = self.estimator.predict(X)
        return {"accuracy": sum(a == b for a, (b,) in zip(found, y, strict=True)) / len(y)}

    def prepare(self, texts: list[str]) -> list[str]:
        if self.case.nbnet.startswith("sgd"):
            return [f"{text} {END_OF_LINE}" for text in texts]
        return texts

    def predict(self, texts: list[str]):
        return self.estimator.predict(texts)

    def predict_one(self, text: str):
        return self.estimator.predict([text])

    def validate(self, text: str) -> None:
        """What `predict` asks of itself and of its argument before it works."""
        from sklearn.utils.validation import check_is_fitted

        from nbnet.tokens import check_texts

        check_is_fitted(self.estimator)
        check_texts([text])


# ---------------------------------------------------------------- tasks


def side(request: dict):
    case = TextCase(**request["text_case"])
    return (Nbnet if request["peer"].startswith("nbnet") else FastText)(case, request["n_cores"])


def timed(work, *arguments) -> dict[str, float]:
    start = time.perf_counter()
    work(*arguments)
    return {"seconds": time.perf_counter() - start}


class TextTrain:
    """Times training; the score on the test file with it."""

    def __init__(self, request: dict):
        self.side = side(request)
        self.setting = self.side.setting

    def measure(self) -> dict:
        return timed(self.side.fit) | self.side.scores()


class TextPredict:
    """Times predicting the test file's texts, from str to labels; or one short text."""

    def __init__(self, request: dict):
        self.side = side(request)
        self.setting = self.side.setting
        self.side.fit()
        texts, _ = read(Path(request["text_case"]["test"]))
        if request["one"]:
            # shorter than nine in ten
            text = self.side.prepare([sorted(texts, key=len)[len(texts) // 10]])[0]
            self.work, self.argument = self.side.predict_one, text
        else:
            self.work, self.argument = self.side.predict, self.side.prepare(texts)
        self.n_calls = 1
        while timed(self._calls)["seconds"] < 0.2:
            self.n_calls *= 2

    def _calls(self) -> None:
        for _ in range(self.n_calls):
            self.work(self.argument)

    def measure(self) -> dict:
        found = {"seconds": timed(self._calls)["seconds"] / self.n_calls}
        if isinstance(self.side, Nbnet) and isinstance(self.argument, str):
            found["validation"] = timed(self._validations)["seconds"] / self.n_calls
        return found

    def _validations(self) -> None:
        for _ in range(self.n_calls):
            self.side.validate(self.argument)


class TextMemory:
    """Peak memory of training above what the process held before it, texts included. Linux only."""

    def __init__(self, request: dict):
        self.side = side(request)
        self.setting = self.side.setting

    def measure(self) -> dict:
        restart_peak()
        before = status_bytes("VmRSS")
        found = timed(self.side.fit)
        found["bytes"] = status_bytes("VmHWM") - before
        if isinstance(self.side, Nbnet):
            found["needed"] = needed_bytes(self.side)
        return found


def needed_bytes(side: Nbnet) -> int:
    """Token ids (and their counts), rows of the table, state of the solver."""
    documents = side.estimator._index.transform(side.X)
    state = 4 * side.estimator._index.n_rows * (side.estimator.solver == "adagrad")
    return documents.ids.nbytes + documents.counts.nbytes + side.estimator.params_.nbytes + state


class Tokenize:
    """Times `TokenIndex.transform` of the training texts and counts what it reads: single tokens, no n-grams."""

    def __init__(self, request: dict):
        from nbnet.tokens import Analysis, TokenIndex

        self.setting = ""
        self.n_workers = request["n_cores"]
        texts, _ = read(Path(request["text_case"]["train"]))
        self.texts = texts * max(1, 20_000_000 // sum(map(len, texts)))
        self.index = TokenIndex(Analysis(ngram_range=(1, 1), boundary_tokens=False, merge_repeats=False))
        self.work = getattr(self.index, request["method"])
        self.n_tokens = self.index.fit_transform(self.texts, self.n_workers).ids.size

    def measure(self) -> dict:
        found = timed(self.work, self.texts, self.n_workers)
        return found | {"tokens": self.n_tokens, "characters": sum(map(len, self.texts))}


class LinearSVC:
    """What a user of scikit-learn would take: TF-IDF of one and two words (characters of Chinese), LinearSVC."""

    def __init__(self, request: dict):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        self.setting = ""
        self.case = TextCase(**request["text_case"])
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **request["vectorizer"])
        self.model = make_pipeline(vectorizer, LinearSVC(random_state=0))

    def measure(self) -> dict:
        (X, y), (X_test, y_test) = (read(Path(path)) for path in (self.case.train, self.case.test))
        found = timed(self.model.fit, X, [label for (label,) in y])
        return found | {"accuracy": float(self.model.score(X_test, [label for (label,) in y_test]))}


class TextQuality:
    """Scores of several cases, which differ in their seeds and the order of their files."""

    def __init__(self, request: dict):
        self.request = request
        self.setting = ""

    def measure(self) -> dict:
        found = []
        for case in self.request["text_cases"]:
            one = side(self.request | {"text_case": case})
            found.append(timed(one.fit) | one.scores())
        return {name: [of_case[name] for of_case in found] for name in found[0]}


TASKS = {
    "text_train": TextTrain,
    "text_predict": TextPredict,
    "text_memory": TextMemory,
    "text_quality": TextQuality,
    "tokenize": Tokenize,
    "linear_svc": LinearSVC,
}


def fasttext_version() -> str:
    """Name of the installed fastText, as JSON."""
    import importlib.metadata

    for name, word in (("fasttext", ""), ("fasttext-wheel", " wheel")):
        try:
            return json.dumps(f"fastText, {importlib.metadata.version(name)}{word}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return json.dumps("fastText")


if __name__ == "__main__":
    print(fasttext_version())
