"""Damaged and hostile model files by the thousand: ``python tests/mutate_model_files.py 100000 [first seed]``.

Each seed makes one change, or a few, of a small good file: of its bytes, or of what they say, with a digest that fits
again. What comes out must be refused with `ModelFileError`, or be a model that predicts; memory is limited meanwhile.
"""

import copy
import json
import random
import struct
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from nbnet.estimators.stored import restored
from nbnet.model_files import ModelFileError, contents_of, digest_of, refusing

FILES = Path(__file__).parent / "files"
FREE_MEMORY = 1 << 30  # what all loads together may take beyond what the process has
VALUES = [
    None, True, False, -1, 0, 1, 2, 15, 16, 17, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**200,
    0.0, -1.0, 0.5, 1e-300, 1e300, "", "x", "relu", "softmax", "conv", "\ud800", "\x00", [], [[]], [1], {}, {"a": 1},
    {"float": "inf"}, {"float": "nan"}, {"tuple": [1, 2]}, {"tuple": [2, 1]}, {"tuple": [1, 10**6]}, {"set": [1]},
    {"set": [[]]}, {"dict": [[1, 2]]}, {"dict": [[[], 2]]}, {"dict": [1]},
]  # fmt: skip
NUMBERS = [-1, 0, 1, 2, 7, 127, 128, 255, 2**31 - 1, -(2**31), 2**62, -(2**63), 2**63 - 1]
TEXTS = ["", "good film", "a 中文 word :-)", "\x02\x03", "x" * 300]


def good_files() -> dict[str, bytes]:
    """The stored files by name."""
    return {path.stem: path.read_bytes() for path in sorted(FILES.glob("*.safetensors"))}


# ---------------------------------------------------------------- a file in parts


def unpacked(data: bytes):
    """(entries of arrays as safetensors has them, the buffer, metadata, header)."""
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    metadata = entries.pop("__metadata__")
    return entries, data[8 + size :], metadata, json.loads(metadata["header"])


def arrays_of(entries, buffer) -> dict[str, np.ndarray]:
    """The arrays of a good file."""
    codes = {"BOOL": "?", "U8": "u1", "I32": "i4", "I64": "i8", "U64": "u8", "F32": "f4", "F64": "f8"}
    arrays = {}
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        arrays[name] = np.frombuffer(buffer[first:last], codes[entry["dtype"]]).reshape(entry["shape"]).copy()
    return arrays


def packed(entries, buffer, metadata) -> bytes:
    """A file of these parts, whether they fit or not."""
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    return struct.pack("<Q", len(text)) + text + buffer


def signed(header, arrays, metadata) -> bytes:
    """A file that safetensors can read, with a digest that fits."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(header)
    return save(arrays, {**metadata, "header": text, "digest": digest_of(text, arrays)})


# ---------------------------------------------------------------- changes


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, bytes changed, cut, doubled or moved."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        kind, at = rng.randrange(6), rng.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        else:
            data[:8] = struct.pack("<Q", rng.choice([0, 1, at, len(data), 2**31, 2**63 - 1, 2**64 - 1]))
        if not data:
            break
    return bytes(data)


def change_entries(rng: random.Random, data: bytes) -> bytes:
    """Other types, shapes and ranges of the buffer than there are, overlapping ones too."""
    entries, buffer, metadata, _ = unpacked(data)
    entry = entries[rng.choice(sorted(entries))]
    other = entries[rng.choice(sorted(entries))]
    kind = rng.randrange(5)
    if kind == 0:
        entry["data_offsets"] = list(other["data_offsets"])
    elif kind == 1:
        entry["data_offsets"][rng.randrange(2)] = rng.choice([*NUMBERS, 2**64, "0", None])
    elif kind == 2:
        entry["shape"] = rng.choice([other["shape"], [2**62, 0], [2**32, 2**32], [-1], ["1"], entry["shape"] + [1], []])
    elif kind == 3:
        entry["dtype"] = rng.choice(["F64", "F32", "F16", "BF16", "F8_E4M3", "U8", "I64", "BOOL", "C64", "x", 3])
    else:
        entry.update(copy.deepcopy(other))
    return packed(entries, buffer, metadata)


def _places(node, place=()):
    """Places of all values within a JSON value."""
    yield place
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield from _places(child, (*place, key))


def change_header(rng: random.Random, data: bytes) -> bytes:
    """Other values, missing and repeated ones in the header; the digest fits."""
    entries, buffer, metadata, header = unpacked(data)
    for _ in range(rng.choice([1, 1, 1, 3])):
        *path, key = rng.choice([place for place in _places(header) if place])
        parent = header
        for step in path:
            parent = parent[step]
        kind = rng.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == 2 and isinstance(parent[key], int):
            parent[key] += rng.choice([-1, 1])
        elif kind == 3:
            parent[key] = [parent[key]] * rng.choice([1, 2, 1000])
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        if not header:
            break
    return signed(header, arrays_of(entries, buffer), metadata)


def change_arrays(rng: random.Random, data: bytes) -> bytes:
    """Other numbers, shapes, types and names of arrays; the digest fits."""
    entries, buffer, metadata, header = unpacked(data)
    arrays = arrays_of(entries, buffer)
    for _ in range(rng.choice([1, 1, 1, 3])):
        name = rng.choice(sorted(arrays))
        array, kind = arrays[name], rng.randrange(8)
        if kind <= 2 and array.size:
            number = rng.choice([*NUMBERS, np.nan, np.inf] if array.dtype.kind == "f" else NUMBERS)
            where = slice(None) if kind == 0 else rng.randrange(array.size)
            array.reshape(-1)[where] = np.array(number).astype(array.dtype)
        elif kind == 3:
            arrays[name] = array.reshape(-1) if array.ndim > 1 else array.reshape(-1, 1)
        elif kind == 4:
            arrays[name] = array[: len(array) // 2] if rng.random() < 0.5 else np.concatenate([array, array])
        elif kind == 5:
            arrays[name] = array.astype(rng.choice(["?", "i4", "i8", "f2", "f4", "f8", "u8"]))
        elif kind == 6:
            other = rng.choice(sorted(arrays))
            arrays[name], arrays[other] = arrays[other], arrays[name]
        else:
            arrays[rng.choice(["x", "classes", "layers.0.weight"])] = arrays.pop(name)
    return signed(header, arrays, metadata)


CHANGES = (change_bytes, change_entries, change_header, change_arrays)


# ---------------------------------------------------------------- what must come out


def read(data: bytes):
    """The model of these bytes."""
    with refusing("a file"):
        return restored(*contents_of(data, "model"))


def use(model) -> None:
    """Predict; a model whose parameters do not suit its input may say so."""
    name = type(model).__name__
    model.n_jobs = 1
    if name == "TextEmbeddingClassifier":
        X = TEXTS
    elif name == "TokenTagger":
        X = [text.split() for text in TEXTS]
    elif name == "ConvClassifier":
        if model.n_features_in_ > 10**6:  # a good model of images larger than are wanted here
            return
        X = np.zeros((2, *model.image_shape_), np.float32)
    else:
        X = np.ones((2, model.n_features_in_))
    try:
        y = model.predict(X)
    except (ValueError, OverflowError):
        return
    assert (len(y) if isinstance(y, list) else y.shape[0]) == len(X)


def try_seed(seed: int, files: dict[str, bytes]) -> str:
    """One changed file; says what became of it."""
    rng = random.Random(seed)
    name = rng.choice(sorted(files))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what matters here are errors
        data = rng.choice(CHANGES)(rng, files[name])
        try:
            model = read(data)
        except ModelFileError:
            return "refused"
        use(model)
    return "read"


def main(n: int, first: int = 0) -> None:
    """Seeds `first`, ..., `first` + `n` - 1."""
    import resource
    import time

    warnings.simplefilter("ignore")
    files = good_files()
    for data in files.values():
        use(read(data))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + FREE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    started, outcomes = time.perf_counter(), Counter()
    for seed in range(first, first + n):
        try:
            outcomes[try_seed(seed, files)] += 1
        except BaseException:
            print(f"seed {seed}:", file=sys.stderr)
            raise
    print(f"{n} changed files: {dict(outcomes)}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
