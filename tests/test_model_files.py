"""Files: whole or not at all, and nothing but `ModelFileError` for what is no good file."""

import json
import os
import stat
import struct
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from files import make_version_1
from hypothesis import example, given
from hypothesis import strategies as st
from mutate_model_files import arrays_of, good_files, packed, read, signed, try_seed, unpacked, use
from safetensors.numpy import save

import nbnet
from nbnet import ModelFileError
from nbnet.model_files import Fields, decode, digest_of, encode, read_file, replacing, write_file

FILES = good_files()
N_MUTATIONS = 3000
HEADER, ARRAYS = {"a": 1, "b": [1.5, None, "x"]}, {"x": np.arange(6.0).reshape(2, 3), "y": np.array([True, False])}


# ---------------------------------------------------------------- whole files


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "file"
    arrays = {**ARRAYS, "strided": np.arange(20)[::3], "nothing": np.empty((0, 4), np.float32)}
    write_file(path, "model", HEADER, arrays)
    header, read_arrays = read_file(path, "model")
    assert header.entries.pop("versions")["nbnet"] == nbnet.__version__
    assert header.entries == HEADER
    for name, array in arrays.items():
        np.testing.assert_array_equal(read_arrays.take(name, array.dtype, array.shape), array)
    read_arrays.finish()


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space left"):
                write_file(path, "model", HEADER, ARRAYS)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_an_os_error(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError), replacing(tmp_path / "file") as temporary:
        os.unlink(temporary)
        os.symlink("/dev/full", temporary)
        with open(temporary, "wb") as file:
            file.write(b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_mode_and_link_stay(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "file", tmp_path / "link"
    link.symlink_to(target)
    before = os.umask(0o027)
    try:
        write_file(link, "model", HEADER, ARRAYS)
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_missing_files_and_folders_are_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        nbnet.load(tmp_path / "missing")
    with pytest.raises(OSError):
        nbnet.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "missing" / "file", "model", HEADER, ARRAYS)


def test_without_safetensors_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'nbnet\[files\]'"):
        nbnet.load(tmp_path / "file")


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"\xff" * 16,
        b"not a model at all",
        struct.pack("<Q", 2) + b"{}",
        b"PK\3\4" + b"\0" * 99,
    ],
    ids=["empty", "short", "zeros", "huge", "text", "nothing", "zip"],
)
def test_other_files(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="file: "):
        nbnet.load(path)


def test_safetensors_files_of_others(tmp_path):
    path = tmp_path / "file"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save(ARRAYS, metadata))
        with pytest.raises(ModelFileError, match="it is no nbnet model"):
            nbnet.load(path)
    write_file(path, "checkpoint", HEADER, ARRAYS)
    with pytest.raises(ModelFileError, match="its format is 'nbnet checkpoint'"):
        nbnet.load(path)


def test_a_device_is_no_file():
    if not os.path.exists("/dev/zero"):
        pytest.skip("no /dev/zero here")
    with pytest.raises(ModelFileError, match="no regular file"):
        nbnet.load("/dev/zero")


def test_newer_formats_are_named(tmp_path):
    entries, buffer, metadata, _ = unpacked(FILES["mlp_classifier_1"])
    path = tmp_path / "file"
    path.write_bytes(packed(entries, buffer, {**metadata, "version": "2"}))
    with pytest.raises(ModelFileError, match=r"version '2', but nbnet .* reads up to 1"):
        nbnet.load(path)


def test_any_flipped_bit_of_the_weights_is_found():
    data = bytearray(FILES["mlp_regressor_1"])
    data[-5] ^= 1
    with pytest.raises(ModelFileError, match="digest"):
        read(bytes(data))


def hostile(name: str, **changes):
    """A file with a fitting digest and other values at places of the header, named by dotted paths."""
    entries, buffer, metadata, header = unpacked(FILES[name])
    for place, value in changes.items():
        *path, key = place.split("__")
        parent = header
        for step in path:
            parent = parent[step]
        parent[key] = value
    return signed(header, arrays_of(entries, buffer), metadata)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("mlp_classifier_1", {"estimator": "Pipeline"}, "estimator of header is 'Pipeline'"),
        ("mlp_classifier_1", {"estimator": "MLPRegressor"}, "parameters"),
        ("mlp_classifier_1", {"more": 1}, "more"),
        ("mlp_classifier_1", {"n_features": 2**40}, "n_features of header"),
        ("mlp_classifier_1", {"layers": [[2**31 - 1, "relu", 0.0], [3, "identity", 0.0]]}, "layers.0.weight"),
        ("mlp_classifier_1", {"layers": []}, "no layers"),
        ("mlp_classifier_1", {"targets": "binary"}, "3 outputs do not fit 3 classes"),
        ("mlp_classifier_1", {"parameters__n_jobs": 10**6}, "n_jobs"),
        ("mlp_classifier_1", {"parameters__alpha": -1.0}, "alpha"),
        ("mlp_regressor_1", {"loss": "softmax_cross_entropy"}, "loss of header"),
        ("conv_classifier_1", {"image_shape": [2**24, 2**24, 2]}, "too large"),
        ("conv_classifier_1", {"image_shape": [2**25, 1, 2]}, "a size is 33554432"),
        ("conv_classifier_1", {"image_shape": [6, 6, 3]}, "channel_mean"),
        ("conv_classifier_1", {"image_shape": [1, 1, 2]}, "layer 2"),
        ("conv_classifier_1", {"padding": "reflect"}, "padding"),
        ("conv_classifier_1", {"layers": []}, "no output layer"),
        ("mlp_regressor_1", {"progress__loss_": float("nan")}, "the number NaN"),
        ("text_classifier_1", {"analysis__n_buckets": 2**31 - 1}, "n_buckets"),
        ("text_classifier_1", {"analysis__n_buckets": 1}, "buckets"),
        ("text_classifier_1", {"analysis__ngram_range": {"tuple": [1, 10**9]}}, "ngram_range"),
        ("text_classifier_1", {"analysis__subword_range": {"tuple": [1, 10**9]}}, "subword_range"),
        ("text_classifier_1", {"n_documents": 1}, "document frequencies"),
        ("text_classifier_1", {"loss": "softmax"}, "array"),
        ("tagger_1", {"window": 101}, "window of header"),
        ("tagger_1", {"affix_range": {"tuple": [1, 10**9]}}, "affix_range=.* goes beyond 100"),
        ("tagger_1", {"context": 2**31}, "context of header"),
        ("tagger_1", {"affix_range": {"tuple": [1.0, 2]}}, "affix_range must be two integers"),
        ("tagger_1", {"loss": "one_vs_all"}, "does not give each token one tag"),
        ("tagger_1", {"multilabel": True}, "does not give each token one tag"),
        ("tagger_1", {"labels": {"object": True, "texts": ["B-name", "B-place", "O"]}}, "one tag"),
        ("tagger_1", {"labels": {"object": False, "texts": ["B-name", "O"]}}, "array"),
    ],
    ids=str,
)
def test_headers_that_do_not_fit(name, changes, message):
    with pytest.raises(ModelFileError, match=message):
        read(hostile(name, **changes))


ARRAY_CHANGES = {
    "weights of another shape": ("mlp_classifier_1", "layers.0.weight", lambda a: a.T, "layers.0.weight"),
    "weights of another type": ("mlp_classifier_1", "layers.0.weight", lambda a: a.astype("i8"), "layers.0.weight"),
    "not finite": ("mlp_classifier_1", "layers.0.bias", lambda a: a * np.nan, "not finite"),
    "scaling not finite": ("mlp_classifier_1", "input_scale", lambda a: a + np.inf, "not finite"),
    "deviation zero": ("conv_classifier_1", "channel_deviation", lambda a: a * 0, "deviation"),
    "variance below zero": ("conv_classifier_1", "layers.1.running_variance", lambda a: -a - 1, "negative"),
    "classes not sorted": ("text_classifier_1", "classes", lambda a: a[::-1], "sorted"),
    "no UTF-8": ("text_classifier_1", "index.text", lambda a: a | 0x80, "UTF-8"),
    "words overlap": ("text_classifier_1", "index.starts", lambda a: np.r_[a[:2], a[3:4], a[2:3], a[4:]], "behind"),
    "words far away": ("text_classifier_1", "index.starts", lambda a: np.r_[a[:-1], 2**62], "behind"),
    "a word cut": ("text_classifier_1", "index.starts", lambda a: cut_character(a), "within a character"),
    "hashes repeat": ("text_classifier_1", "index.hashes", lambda a: np.r_[a[:-1], a[2]], "hashes"),
    "hashes empty": ("text_classifier_1", "index.hashes", lambda a: np.r_[a[:-1], [np.uint64(0)]], "hashes"),
    "no boundary": ("text_classifier_1", "index.hashes", lambda a: a[::-1], "boundary"),
    "a row twice": ("text_classifier_1", "index.word_rows", lambda a: np.r_[a[:-1], a[2]].astype("i4"), "rows"),
    "a row too many": ("text_classifier_1", "index.bucket_rows", lambda a: a + np.int32(1), "rows"),
    "a bucket too many": ("text_classifier_1", "index.buckets", lambda a: a + np.int32(64), "buckets"),
    "a bucket twice": ("text_classifier_1", "index.buckets", lambda a: np.r_[a[:-1], a[0]].astype("i4"), "distinct"),
    "a bucket below": ("text_classifier_1", "index.buckets", lambda a: a - np.int32(64), "buckets"),
    "a unit too many": ("text_classifier_1", "tree.units", lambda a: a + np.int32(9), "units"),
    "no tree": ("text_classifier_1", "tree.turns", lambda a: a & False, "tree"),
    "paths far away": ("text_classifier_1", "tree.starts", lambda a: a * 2**40, "paths"),
    "counts below zero": ("text_classifier_1", "class_counts", lambda a: -a, "weights of the classes"),
    "tokens overlap": ("tagger_1", "usage.starts", lambda a: np.r_[a[:2], a[3], a[2], a[4:]], "behind"),
    "tokens beyond": ("tagger_1", "usage.starts", lambda a: np.r_[a[:-1], 2**62], "behind"),
    "no token at all": ("tagger_1", "usage.starts", lambda a: a[:0], "usage.counts"),
    "tokens of no UTF-8": ("tagger_1", "usage.text", lambda a: a | 0x80, "utf-8"),
    "a token twice": ("tagger_1", "usage.text", lambda a: a * 0 + 97, "twice"),
    "a token nowhere": ("tagger_1", "usage.counts", lambda a: a - a, "does not occur"),
    "transitions below zero": ("tagger_1", "transition_counts", lambda a: a - 1, "not counts"),
    "transitions not finite": ("tagger_1", "transition_counts", lambda a: a * np.nan, "not counts"),
    "transitions without end": ("tagger_1", "transition_counts", lambda a: a + 1e300, "not counts"),
    "transitions of other tags": ("tagger_1", "transition_counts", lambda a: a[:-1], "transition_counts"),
    "a curve too many": ("text_classifier_1", "history_.loss", lambda a: a.reshape(1, -1), "history_.loss"),
}


def cut_character(starts):
    """Starts one of which lies within a character of two bytes or more."""
    text = arrays_of(*unpacked(FILES["text_classifier_1"])[:2])["index.text"]
    within = np.flatnonzero(text & 0xC0 == 0x80)
    at = np.searchsorted(starts, within[0])
    return np.r_[starts[:at], within[0], starts[at + 1 :]]


@pytest.mark.parametrize("change", sorted(ARRAY_CHANGES))
def test_arrays_that_do_not_fit(change):
    name, array, function, message = ARRAY_CHANGES[change]
    entries, buffer, metadata, header = unpacked(FILES[name])
    arrays = arrays_of(entries, buffer)
    read(signed(header, arrays, metadata))
    arrays[array] = function(arrays[array])
    with pytest.raises(ModelFileError, match=message):
        read(signed(header, arrays, metadata))


def test_missing_and_unknown_arrays():
    entries, buffer, metadata, header = unpacked(FILES["mlp_classifier_1"])
    arrays = arrays_of(entries, buffer)
    with pytest.raises(ModelFileError, match="nothing here knows"):
        read(signed(header, {**arrays, "more": np.zeros(1)}, metadata))
    arrays.pop("layers.1.bias")
    with pytest.raises(ModelFileError, match=r"lacks the array 'layers.1.bias'"):
        read(signed(header, arrays, metadata))


@pytest.mark.parametrize("block", range(10))
def test_changed_files(block):
    """tests/mutate_model_files.py runs more of them, with memory limited."""
    n = N_MUTATIONS // 10
    outcomes = {try_seed(seed, FILES) for seed in range(block * n, (block + 1) * n)}
    assert outcomes == {"refused", "read"}


@given(st.binary(max_size=200))
@example(struct.pack("<Q", 8) + b'{"a":[]}')
def test_any_bytes(data):
    with pytest.raises(ModelFileError):
        read(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
)


@given(st.sampled_from(sorted(FILES)), st.data())
def test_any_value_in_the_header(name, data):
    entries, buffer, metadata, header = unpacked(FILES[name])
    parent, key = header, data.draw(st.sampled_from(sorted(header)))
    if isinstance(parent[key], dict) and parent[key] and data.draw(st.booleans()):
        parent, key = parent[key], data.draw(st.sampled_from(sorted(parent[key])))
    parent[key] = data.draw(json_values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = read(signed(header, arrays_of(entries, buffer), metadata))
        except ModelFileError:
            return
        use(model)


def test_memory_is_bounded_by_the_size_of_the_file():
    text = "[" * 200_000
    metadata = {"format": "nbnet model", "version": "1", "header": text, "digest": digest_of(text, {})}
    hostile_files = {
        "deep": save({}, metadata),
        "wide": hostile("mlp_classifier_1", layers=[[2**31 - 1, "relu", 0.0]] * 1000),
        "many layers": hostile("mlp_classifier_1", layers=[[1, "relu", 0.0]] * 20_000),
        "large images": hostile("conv_classifier_1", image_shape=[2**19, 2**20, 2], image_layers=[]),
        "many buckets": hostile("text_labels_1", analysis__n_buckets=2**31 - 1),
        "many lengths": hostile("text_labels_1", analysis__subword_range={"tuple": [1, 2**31]}),
        "many numbers": hostile("mlp_classifier_1", layers=[0] * 10**6),
    }
    for name, data in hostile_files.items():
        tracemalloc.start()
        try:
            with pytest.raises(ModelFileError):
                read(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 32 * len(data) + 2**20, name


# ---------------------------------------------------------------- values


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda children: (
            st.lists(children, max_size=3)
            | st.lists(children, max_size=3).map(tuple)
            | st.dictionaries(st.integers() | st.text() | st.booleans(), children, max_size=3)
            | st.sets(st.integers() | st.text(), max_size=3)
        ),
    )
)
def test_values_come_back(value):
    assert decode(json.loads(json.dumps(encode(value), allow_nan=False))) == value


def test_numbers_of_numpy_become_pythons():
    value = decode(encode([np.int64(1), np.float32(0.5), np.bool_(True), np.array([1, 2]), np.inf]))
    assert value == [1, 0.5, True, [1, 2], np.inf]
    assert [type(v) for v in value] == [int, float, bool, list, float]
    for code in (len, object(), [lambda: 0], np.random.RandomState(0)):
        with pytest.raises(TypeError):
            encode(code)


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"float": "1e3"}, {"tuple": 1}, {"dict": 1, "set": 2}], ids=str)
def test_unknown_values(value):
    with pytest.raises(ModelFileError, match="unknown value"):
        decode(value)


def test_entries_are_checked():
    fields = Fields({"a": True, "b": [1], "c": "x", "d": 1}, "part")
    for take in (
        lambda: fields.integer("a", 0, 1),
        lambda: fields.texts("b"),
        lambda: fields.choice("c", ("y", None)),
        lambda: fields.items("d"),
        lambda: fields.fields("e"),
    ):
        with pytest.raises(ModelFileError, match="part"):
            take()
    assert fields.entries == {}


# ---------------------------------------------------------------- files of earlier versions


def test_parameters_that_are_younger_than_the_file_have_their_defaults():
    entries, buffer, metadata, header = unpacked(FILES["text_labels_1"])
    del header["parameters"]["label_smoothing"], header["parameters"]["device"], header["analysis"]["stop_words"]
    model = read(signed(header, arrays_of(entries, buffer), metadata))
    assert (model.label_smoothing, model.device) == (0.2, "cpu")


@pytest.mark.parametrize("name", sorted(FILES))
def test_stored_files_of_each_version(name):
    model = nbnet.load(make_version_1.HERE / f"{name}.safetensors")
    name, version = name.rsplit("_", 1)
    expected = json.loads((make_version_1.HERE / f"expected_{version}.json").read_text(encoding="utf-8"))[name]
    np.testing.assert_allclose(make_version_1.predictions_of(model, name), expected, rtol=2e-5, atol=1e-7)
