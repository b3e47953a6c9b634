"""X that the GPU has no room for comes in pieces: the same bits, and no piece is overwritten while it is read."""

import numpy as np
import pytest
from scipy import sparse

from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier
from nbnet.cpu import session as cpu
from nbnet.cpu.token_rows import Documents
from nbnet.cuda import (
    conv_session,
    embedding,
    embedding_updates,
    occurrences,
    product,
    streaming,
    text_session,
    text_streaming,
)
from nbnet.cuda import session as gpu
from tests.cuda_sim import simulator
from tests.helpers import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(26, 3)).astype(np.float32)
CLASSES = np.argmax(X + RNG.normal(scale=0.5, size=X.shape), axis=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(gpu, "BLOCK_ROWS", 8)
    monkeypatch.setattr(cpu, "FULL_ROWS", 16)


@pytest.fixture
def no_room(monkeypatch):
    """No X fits; a piece is one batch, or two of a batch of four."""

    def start():
        monkeypatch.setattr(streaming, "RESIDENT_SHARE", 0.0)
        monkeypatch.setattr(streaming, "PIECE_BYTES", 96)

    return start


def sparse_X():
    return sparse.csr_array(np.where(np.abs(X) > 0.8, X, 0))


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        (X.astype(float), {"dtype": "float32"}),
        (sparse_X(), {"hidden_layer_sizes": ()}),
        (X.astype(float), {"solver": "lbfgs", "hidden_layer_sizes": ()}),
    ],
    ids=["dense", "csr", "lbfgs"],
)
def test_the_bits_are_those_of_an_X_that_fits(given, parameters, no_room):
    settings = {"hidden_layer_sizes": (3,), "max_iter": 1, "batch_size": 4, "random_state": 0, "device": "cuda"}
    rows, held_out = (given[:18], CLASSES[:18]), {"X_val": given[17:], "y_val": CLASSES[17:]}
    expected = fit(MLPClassifier(**settings | parameters), *rows, **held_out)
    probabilities = expected.predict_proba(given)
    no_room()
    model = fit(MLPClassifier(**settings | parameters), *rows, **held_out)
    np.testing.assert_array_equal(model.params_, expected.params_)
    assert model.history_["val_loss"] == expected.history_["val_loss"]
    np.testing.assert_array_equal(model.predict_proba(given), probabilities)


@pytest.mark.parametrize("kind", ["uint8", "strided"])
def test_images(kind, no_room):
    """Changed at random as if all were there; uint8 stays so on the way."""
    given = RNG.integers(0, 256, (18, 4, 3, 2)).astype(np.uint8)[..., 0]
    given = np.ascontiguousarray(given) if kind == "uint8" else given.astype(float)[:, ::-1]
    settings = {"max_iter": 2, "batch_size": 4, "random_state": 0, "device": "cuda", "conv_algorithm": "direct"}
    model = ConvClassifier((2,), (), augment={"shift": 1, "horizontal_flip": 0.5}, dtype="float32", **settings)
    held_out = {"X_val": given[15:], "y_val": CLASSES[15:18]}
    expected = fit(model, given, CLASSES[:18], **held_out)
    parameters, curve = expected.params_.copy(), expected.history_["val_loss"]
    predictions, features = expected.predict_proba(given), expected.transform(given)
    no_room()
    images = conv_session.as_images(given, (4, 3, 1), 0.0, 1.0, np.float32)
    assert streaming.is_on_host(images) and images.kind_on_gpu(np.float32) == given.dtype.type
    fit(model, given, CLASSES[:18], **held_out)
    np.testing.assert_array_equal(model.params_, parameters)
    assert model.history_["val_loss"] == curve
    np.testing.assert_array_equal(model.predict_proba(given), predictions)
    np.testing.assert_array_equal(model.transform(given), features)


TEXTS = [" ".join(RNG.choice(list("abcdefg"), n)) for n in RNG.integers(1, 7, 26)]
TEXTS[4] = TEXTS[9] = TEXTS[20] = ""  # without boundaries, no token
LABELS = np.eye(3, dtype=int)[CLASSES] | np.eye(3, dtype=int)[CLASSES[::-1]]


@pytest.mark.parametrize(
    ("parameters", "labels"),
    [
        ({"solver": "sgd", "pooling": "mean", "ngram_range": (1, 2)}, CLASSES),
        ({"solver": "adam", "pooling": "attention", "hidden_layer_sizes": (3,), "dropout": 0.3}, CLASSES),
        ({"pooling": "max", "token_weights": None}, CLASSES),
        ({"pooling": "sum", "freeze_embeddings": True, "hidden_layer_sizes": (3,), "dtype": "float64"}, CLASSES),
        ({"loss": "hierarchical_softmax", "sample_labels": True, "batch_size": 3}, LABELS),
        ({"loss": "hierarchical_softmax", "pooling": "attention", "deterministic": False}, CLASSES),
    ],
    ids=["mean", "attention", "max", "frozen", "tree", "any-order"],
)
def test_texts(parameters, labels, no_room, monkeypatch):
    monkeypatch.setattr(embedding, "TURNS", 2)
    monkeypatch.setattr(embedding_updates, "TURNS", 2)
    monkeypatch.setattr(embedding_updates, "WARPS", 1)
    monkeypatch.setattr(occurrences, "PIECE_BATCHES", 1)
    monkeypatch.setattr(simulator.module, "overflow", "ignore")
    settings = {"embedding_dim": 4, "max_iter": 2, "batch_size": 4, "random_state": 0, "boundary_tokens": False}
    model = TextEmbeddingClassifier(device="cuda", **settings | parameters)
    rows, held_out = (TEXTS[:18], labels[:18]), {"X_val": TEXTS[15:], "y_val": labels[15:]}
    expected = fit(model, *rows, **held_out)
    parameters, curve = expected.params_.copy(), expected.history_["val_loss"]
    probabilities, vectors = expected.predict_proba(TEXTS), expected.transform(TEXTS)
    no_room()
    monkeypatch.setattr(streaming, "PIECE_BYTES", 1000)  # a piece is two batches or three
    pieces = []
    monkeypatch.setattr(
        text_streaming, "gathered", lambda *given, of=text_streaming.gathered: pieces.append(given) or of(*given)
    )
    fit(model, *rows, **held_out)
    assert len(pieces) > 2 * 2
    np.testing.assert_array_equal(model.params_, parameters)
    assert model.history_["val_loss"] == curve
    np.testing.assert_array_equal(model.predict_proba(TEXTS), probabilities)
    np.testing.assert_array_equal(model.transform(TEXTS), vectors)


def test_texts_that_fit_are_uploaded_and_others_stay():
    documents = Documents(np.zeros(100, np.int32), np.zeros(0, np.uint8), np.arange(101))
    assert text_session.as_texts(documents).on_device is not None
    with simulator.memory_total(4000):
        assert text_session.as_texts(documents).on_device is None


@pytest.mark.parametrize(("n", "batch_size", "n_pieces"), [(9, 2, 5), (10, 5, 2), (3, 5, 1), (0, 5, 0)])
def test_pieces_of_texts(n, batch_size, n_pieces, monkeypatch):
    monkeypatch.setattr(streaming, "PIECE_BYTES", 1)  # a piece is a batch
    lengths = RNG.integers(0, 4, 10)
    starts = np.append(0, np.cumsum(lengths))
    documents = Documents(np.arange(starts[-1], dtype=np.int32), np.ones(starts[-1], np.uint8), starts)
    order = RNG.permutation(10)[:n]
    source = text_streaming.StreamedTexts(documents, n, batch_size)
    slots, seen = source.slots.copy_to_host(), []
    for start, stop in source.pieces(order):
        seen.append((start, stop))
        ids, _, there = (part.copy_to_host() for part in source.on_device)
        for position in range(start, stop):
            number, slot = order[position], slots[position]
            np.testing.assert_array_equal(
                ids[there[slot] : there[slot + 1]], np.arange(starts[number], starts[number + 1])
            )
        assert (np.diff(there[stop - start :].astype(int)) == 0).all()
    assert len(seen) == n_pieces


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize(("n", "batch_size", "n_pieces"), [(26, 4, 7), (24, 8, 3), (7, 8, 1), (8, 1, 2)])
def test_pieces(kind, n, batch_size, n_pieces, monkeypatch):
    monkeypatch.setattr(streaming, "PIECE_BYTES", 100)
    rows = streaming.HostRows(X if kind == "dense" else sparse_X(), np.uint32(26), np.uint32(3))
    order = RNG.permutation(26)[:n]
    source = streaming.source_of(rows, np.float64, n, batch_size)
    slots, seen = source._slots.copy_to_host(), []
    for _ in range(2):  # epochs
        for start, stop in source.pieces(order):
            seen.append((start, stop))
            parts = [part.copy_to_host() for part in source.rows[:3]]
            for position in range(start, stop):
                np.testing.assert_array_equal(row(parts, slots[position]), X_row(kind, order[position]))
    if kind == "dense":
        assert len(seen) == 2 * n_pieces
    assert [start for start, _ in seen[1:]] == [stop if stop < n else 0 for _, stop in seen[:-1]]
    assert all(start % batch_size == 0 for start, _ in seen)


def row(parts, slot):
    """A row of three columns, from what kernels read."""
    values, indices, indptr = parts
    if not indptr.size:
        return values[3 * slot : 3 * slot + 3]
    found = np.zeros(3)
    part = slice(indptr[slot], indptr[slot + 1])
    found[indices[part]] = values[part]
    return found


def X_row(kind, number):
    return X[number] if kind == "dense" else sparse_X().toarray()[number]


def test_a_half_is_copied_to_after_what_reads_it_and_read_after_the_copy(monkeypatch):
    """The simulator's GPU computes at once; so the order of events is looked at."""
    log = []
    Event = simulator.module.event

    class Logged(Event):
        def record(self, stream=0):
            log.append(("computed" if stream == 0 else "copied", self))
            super().record(stream)

        def wait(self, stream=0):
            log.append(("GPU waits" if stream == 0 else "copy waits", self))
            super().wait(stream)

        def synchronize(self):
            if not log or "waits" not in log[-1][0]:
                log.append(("host waits", self))
            super().synchronize()

    monkeypatch.setattr(simulator.module, "event", Logged)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 48)
    rows = streaming.HostRows(X[:16], np.uint32(16), np.uint32(3))
    source = streaming.source_of(rows, np.float32, 16, 4)
    for _ in source.pieces(np.arange(16)):
        log.append(("launch", None))
    copied, read = source._copies._copied, source._copies._read
    of = {None: "", copied[0]: "copied 0", copied[1]: "copied 1", read[0]: "read 0", read[1]: "read 1"}
    told = [f"{name} {of[event]}".strip() for name, event in log]
    assert told == [
        *("copied copied 0", "GPU waits copied 0", "launch", "computed read 0"),
        *("copied copied 1", "GPU waits copied 1", "launch", "computed read 1"),
        *("host waits copied 0", "copy waits read 0", "copied copied 0"),
        *("GPU waits copied 0", "launch", "computed read 0"),
        *("host waits copied 1", "copy waits read 1", "copied copied 1"),
        *("GPU waits copied 1", "launch", "computed read 1"),
    ]


def test_ctrl_c_between_two_pieces(monkeypatch):
    monkeypatch.setattr(streaming, "PIECE_BYTES", 48)
    waited = []
    monkeypatch.setattr(simulator.module, "synchronize", lambda: waited.append(True))
    source = streaming.source_of(streaming.HostRows(X, np.uint32(26), np.uint32(3)), np.float32, 26, 4)
    for _ in source.pieces(np.arange(26)):
        break
    assert len(list(source.pieces(np.arange(26)))) == 7 and waited == [True]
    assert len(list(source.pieces(np.arange(26)))) == 7 and waited == [True]


def test_what_fits_is_uploaded_and_what_does_not_stays(monkeypatch):
    taken, large = np.zeros((100, 10), np.float32), sparse.csr_array(np.ones((30, 30)))
    with simulator.memory_total(6000):
        assert not isinstance(gpu.as_rows(taken), streaming.HostRows)
        assert isinstance(gpu.as_rows(np.zeros((200, 10), np.float32)), streaming.HostRows)
        assert isinstance(gpu.as_rows(large), streaming.HostRows)
    assert not isinstance(gpu.as_rows(large), streaming.HostRows)
