"""Images: equal to OpenCV, Pillow and a plain twin; read from files; changed at random, repeatably."""

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils._param_validation import InvalidParameterError

from nbnet import ImagePreprocessor, load_images
from nbnet.cpu.augment import augment_rows
from nbnet.cpu.dense import Matrix
from nbnet.cpu.workers import Team
from nbnet.images import Augmentation, augment_images, augment_rule, preprocessor
from nbnet.jit import JIT_DISABLED
from tests import reference_images as reference

PICTURES = load_sample_images().images  # two of 427 x 640 pixels, uint8
if JIT_DISABLED:
    PICTURES = [picture[200:227, 300:340] for picture in PICTURES]
HEIGHT, WIDTH = PICTURES[0].shape[:2]
SMALLER = [(HEIGHT // 3, WIDTH // 5), (HEIGHT, WIDTH // 2), (HEIGHT * 2 // 3, WIDTH - 1), (7, 3), (1, 1)]
LARGER = [(2 * HEIGHT, 2 * WIDTH), (HEIGHT * 3 // 2, WIDTH + 7), (HEIGHT, WIDTH)]
DIGITS = load_digits().images  # float64, 8 x 8


def resized(picture, size, interpolation="area", **parameters):
    return ImagePreprocessor(size=size, interpolation=interpolation, **parameters).transform([picture])[0]


def random_images(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def assert_within_one_level(values, expected, share_equal):
    assert values.dtype == expected.dtype == np.uint8
    difference = np.abs(values.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference == 0) >= share_equal


# ---------------------------------------------------------------- other libraries


@pytest.mark.parametrize("size", SMALLER + LARGER)
@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_equals_opencv(interpolation, size):
    cv2 = pytest.importorskip("cv2")
    flag = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR}[interpolation]
    for picture in PICTURES:
        expected = cv2.resize(picture, size[::-1], interpolation=flag)
        # OpenCV's weights for uint8 have 11 bits
        assert_within_one_level(resized(picture, size, interpolation), expected, 0.7)
        picture = picture.astype(np.float32)
        expected = cv2.resize(picture, size[::-1], interpolation=flag)
        assert_allclose(resized(picture, size, interpolation), expected, atol=2e-3)


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_equals_pillow_where_it_means_the_same(interpolation):
    image = pytest.importorskip("PIL.Image")
    for picture in PICTURES:
        height, width = HEIGHT // 3, WIDTH // 4
        picture = picture[: height * 3, : width * 4]
        if interpolation == "area":  # by integer factors
            flag, sizes = image.Resampling.BOX, [(height, width), (height * 3, width), (height * 6, width * 12)]
        else:
            flag, sizes = image.Resampling.BILINEAR, LARGER
        for size in sizes:
            expected = np.asarray(image.fromarray(picture).resize(size[::-1], flag))
            assert_within_one_level(resized(picture, size, interpolation), expected, 0.7)


def test_digits_equal_opencv():
    cv2 = pytest.importorskip("cv2")
    for size in ((4, 4), (5, 3), (16, 12)):
        expected = [cv2.resize(digit, size[::-1], interpolation=cv2.INTER_AREA) for digit in DIGITS[:20]]
        values = ImagePreprocessor(size=size).transform(DIGITS[:20])
        assert values.dtype == np.float64
        assert_allclose(values, expected, atol=1e-5)  # OpenCV's weights are float32


def test_gray_equals_opencv_and_pillow():
    cv2, image = pytest.importorskip("cv2"), pytest.importorskip("PIL.Image")
    for picture in PICTURES:
        gray = ImagePreprocessor(channels=1).transform([picture])[0, :, :, 0]
        assert_within_one_level(gray, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 0.99)
        assert_within_one_level(gray, np.asarray(image.fromarray(picture).convert("L")), 0.99)
        back = ImagePreprocessor(channels=3).transform([gray])[0]
        assert_array_equal(back, cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB))


# ---------------------------------------------------------------- the twin

SIZES = st.integers(1, 9) if JIT_DISABLED else st.integers(1, 40)


@settings(max_examples=20 if JIT_DISABLED else 150, deadline=None, derandomize=True)
@given(
    size=st.tuples(SIZES, SIZES),
    out=st.tuples(SIZES, SIZES),
    channels=st.sampled_from([(1, None), (1, 1), (1, 3), (2, None), (3, None), (3, 1), (3, 3), (5, None)]),
    interpolation=st.sampled_from(["area", "bilinear"]),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64, ">f4", np.uint16]),
    seed=st.integers(0, 99),
)
def test_equals_twin(size, out, channels, interpolation, dtype, seed):
    images = random_images(3, *size, channels[0], dtype=dtype, seed=seed)
    values = ImagePreprocessor(size=out, interpolation=interpolation, channels=channels[1]).transform(images)
    expected = np.stack([reference.resize(image, out, interpolation) for image in images])
    if channels[1]:
        expected = np.stack([reference.convert(image, channels[1]) for image in expected])
    assert values.shape == expected.shape
    assert values.dtype == {">f4": np.float32, np.uint16: np.float64}.get(dtype, dtype)
    tolerance = {"u": 0.5 + 1e-4, "f": 1e-4 if values.dtype == np.float32 else 1e-11}[values.dtype.kind]
    assert_allclose(values, expected, rtol=0, atol=tolerance)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 12), width=st.integers(1, 12), data=st.data())
def test_crops_are_slices(height, width, data):
    images = random_images(2, height, width, 3)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    part = images[:, top : top + box[2], left : left + box[3]]
    assert_array_equal(ImagePreprocessor(crop=box).transform(images), part)
    for interpolation in ("area", "bilinear"):
        resize = ImagePreprocessor(size=(3, 5), interpolation=interpolation)
        assert_array_equal(clone(resize).set_params(crop=box).transform(images), resize.transform(part))
    side = min(height, width)
    square = ImagePreprocessor(crop="center").transform(images)
    top, left = (height - side) // 2, (width - side) // 2
    assert_array_equal(square, images[:, top : top + side, left : left + side])
    assert_array_equal(ImagePreprocessor(crop=(side, side)).transform(images), square)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_nothing_to_do_changes_nothing(dtype):
    for images in (random_images(3, 1, 9, dtype=dtype), random_images(3, 9, 1, 4, dtype=dtype)):
        values = ImagePreprocessor().transform(images)
        assert values.dtype == dtype
        assert_array_equal(values, images)


def test_rounds_halves_to_even():
    image = np.array([[0, 1], [1, 2], [2, 3]], np.uint8)  # means 0.5, 1.5, 2.5
    assert_array_equal(resized(image, (3, 1)), [[0], [2], [2]])


# ---------------------------------------------------------------- inputs of any kind


@pytest.mark.skipif(JIT_DISABLED, reason="one worker with the JIT off")
@pytest.mark.parametrize("n_jobs", [2, 3, 8])
def test_same_bits_for_any_number_of_workers(n_jobs):
    for images in (random_images(5, 17, 13, 3, dtype=np.float32), [random_images(n, 9) for n in (1, 2, 30)]):
        one = ImagePreprocessor(size=(6, 20), normalize=True, n_jobs=1).fit(images)
        many = ImagePreprocessor(size=(6, 20), normalize=True, n_jobs=n_jobs).fit(images)
        assert_array_equal(one.mean_, many.mean_)
        assert_array_equal(one.transform(images), many.transform(images))


def test_workers_share_the_rows(monkeypatch):
    """Each row of the output belongs to one worker."""
    writers = []

    def run(workers, kernel, source, plan, lines, target):
        for worker in range(3):
            target[...] = 255
            kernel(source, plan, np.concatenate([lines] * 3), target, Team(np.zeros(24, np.int64), worker, 3))
            writers.append((target != 255).any(axis=(2, 3)))

    monkeypatch.setattr(preprocessor.Workers, "run", run)
    ImagePreprocessor(size=(4, 3)).transform(random_images(5, 9, 9) // 2)
    assert len(writers) == 3
    assert (np.sum(writers, axis=0) == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_memory_mapped_in_blocks(tmp_path, monkeypatch, dtype):
    images = random_images(11, 6, 5, 3, dtype=dtype)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    whole = ImagePreprocessor(size=4, normalize=True).fit(images)
    expected = whole.transform(images)
    monkeypatch.setattr(preprocessor, "BLOCK_BYTES", 3 * images[0].nbytes)
    assert len(preprocessor._as_images(mapped).views) == 4
    blocks = ImagePreprocessor(size=4, normalize=True).fit(mapped)
    assert_allclose(blocks.mean_, whole.mean_, rtol=1e-6)
    assert_allclose(blocks.scale_, whole.scale_, rtol=1e-6)
    assert_array_equal(whole.transform(mapped), expected)


def test_any_strides():
    images = random_images(4, 10, 12, 3)
    for view in (images[::2, ::-1], images[:, 1:-1, 2:], images.transpose(0, 2, 1, 3), np.asfortranarray(images)):
        assert_array_equal(
            ImagePreprocessor(size=5).transform(view), ImagePreprocessor(size=5).transform(np.ascontiguousarray(view))
        )


def test_lists_of_different_sizes():
    images = [random_images(4, 7, 3), random_images(12, 1), random_images(5, 5, 1), random_images(3, 30, 3)]
    preprocess = ImagePreprocessor(size=(6, 8), channels=3)
    together = preprocess.transform(images)
    assert together.shape == (4, 6, 8, 3)
    for image, values in zip(images, together, strict=True):
        assert_array_equal(preprocess.transform([image])[0], values)
    ragged = np.empty(4, object)
    ragged[:] = images
    assert_array_equal(preprocess.transform(ragged), together)
    assert ImagePreprocessor(crop=(3, 1)).transform([images[1], images[2][..., 0]]).shape == (2, 3, 1)


def test_mixed_types_take_the_widest():
    image = random_images(4, 4)
    assert ImagePreprocessor().transform([image, image.astype(np.float32)]).dtype == np.float32
    assert ImagePreprocessor().transform([image, image.astype(int)]).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_normalize(dtype):
    images = random_images(20, 9, 8, 3, dtype=dtype)
    images[..., 2] = 7
    preprocess = ImagePreprocessor(size=4, normalize=True)
    values = preprocess.fit_transform(images)
    assert values.dtype == np.float32
    exact = np.stack([reference.resize(image, (4, 4), "area") for image in images])
    mean, scale = exact.mean(axis=(0, 1, 2)), exact.std(axis=(0, 1, 2))
    assert_allclose(preprocess.mean_, mean, rtol=1e-5)
    assert_allclose(preprocess.scale_, [*scale[:2], 1], rtol=1e-5)
    assert_allclose(values, (exact - mean) / [*scale[:2], 1], atol=1e-4)
    # the moments of an offset far larger than the spread keep their digits
    if dtype == np.float64:
        shifted = ImagePreprocessor(normalize=True).fit([image + 1e4 for image in images])
        assert_allclose(shifted.scale_[:2], images.std(axis=(0, 1, 2))[:2], rtol=1e-3)


def test_clone_pickle_pipeline():
    preprocess = ImagePreprocessor("center", 4, normalize=True).fit(DIGITS)
    assert not hasattr(clone(preprocess), "mean_")
    expected = preprocess.transform(DIGITS)
    assert_array_equal(pickle.loads(pickle.dumps(preprocess)).transform(DIGITS), expected)
    pipeline = make_pipeline(clone(preprocess), FunctionTransformer(lambda X: X.reshape(len(X), -1)))
    assert_array_equal(pipeline.fit_transform(DIGITS), expected.reshape(len(DIGITS), -1))


# ---------------------------------------------------------------- errors

GRAY = np.zeros((5, 6), np.uint8)


@pytest.mark.parametrize(
    ("parameters", "X", "message"),
    [
        ({}, GRAY, "put a single image in a list"),
        ({}, [], "no images"),
        ({}, np.zeros((0, 5, 5)), "no images"),
        ({}, [GRAY, np.zeros(3)], "image 1: expected an array"),
        ({}, [GRAY, np.zeros((0, 3))], "image 1 is empty: 0 x 3 pixels"),
        ({}, np.zeros((2, 3, 4, 0)), "X is empty: 3 x 4 pixels, 0 channels"),
        ({}, [np.array([["a"]])], "image 0 has dtype"),
        ({}, [GRAY, GRAY.T], "image 1 would be .*: set size"),
        ({}, [GRAY, np.zeros((5, 6, 3))], "image 1 would be .*: set channels"),
        ({}, [GRAY, np.full((5, 6), np.nan)], "image 1 contains NaN"),
        ({}, np.stack([GRAY, GRAY + np.inf]), "image 1 contains NaN or infinity"),
        ({"channels": 1}, [np.zeros((5, 6, 4))], "image 0 has 4 channels.*alpha"),
        ({"crop": (0, 0, 6, 6)}, [GRAY], r"image 0: crop=\(0, 0, 6, 6\) does not lie within its 5 x 6 pixels"),
        ({"crop": (-1, 0, 2, 2)}, [GRAY], "does not lie within"),
        ({"crop": (3, 7)}, [GRAY], "does not lie within"),
        ({"crop": (0, 3)}, [GRAY], "does not lie within"),
        ({"crop": (1, 2, 3)}, [GRAY], "expected 'center'"),
        ({"crop": (1.5, 2)}, [GRAY], "expected 'center'"),
        ({"size": (1, 2, 3)}, [GRAY], "size="),
        ({"size": (0, 3)}, [GRAY], "size="),
    ],
)
def test_errors(parameters, X, message):
    preprocess = ImagePreprocessor(**parameters)
    with pytest.raises(ValueError, match=message):
        preprocess.transform(X)
    if "NaN" not in message:  # fit reads pixels only where it learns from them
        with pytest.raises(ValueError, match=message):
            preprocess.fit(X)
    with pytest.raises(ValueError, match=message):
        preprocess.set_params(normalize=True).fit(X)
    assert not hasattr(preprocess, "mean_")


@pytest.mark.parametrize(
    "parameters", [{"crop": "left"}, {"size": 0}, {"interpolation": "cubic"}, {"channels": 2}, {"n_jobs": 0}]
)
def test_wrong_parameters(parameters):
    with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
        ImagePreprocessor(**parameters).transform(DIGITS)


def test_normalize_needs_fit():
    with pytest.raises(NotFittedError):
        ImagePreprocessor(normalize=True).transform(DIGITS)
    with pytest.raises(NotFittedError):
        ImagePreprocessor().fit(DIGITS).set_params(normalize=True).transform(DIGITS)
    with pytest.raises(ValueError, match="images have 3 channels, but fit has seen 1"):
        ImagePreprocessor(normalize=True).fit(DIGITS).transform(np.zeros((2, 8, 8, 3)))


# ---------------------------------------------------------------- files


@pytest.fixture
def files(tmp_path):
    """Three good files and a broken one, third."""
    image = pytest.importorskip("PIL.Image")
    paths = [tmp_path / name for name in ("a.png", "b.bmp", "broken.png", "c.png")]
    for path, picture in zip(
        paths, [PICTURES[0], PICTURES[1][:20, :30], PICTURES[0], PICTURES[1][..., 0]], strict=True
    ):
        image.fromarray(picture).save(path)
    paths[2].write_bytes(paths[0].read_bytes()[:200])
    return paths


@pytest.mark.parametrize("n_jobs", [1, 3, None])
def test_load_images(files, n_jobs):
    good = [files[0], str(files[1]), files[3]]
    pictures = [PICTURES[0], PICTURES[1][:20, :30], PICTURES[1][..., 0]]
    for channels in (1, 3):
        images = load_images(iter(good), 16, crop="center", channels=channels, n_jobs=n_jobs)
        assert images.shape == (3, 16, 16, channels)
        assert_array_equal(images, ImagePreprocessor("center", 16, channels=channels).transform(pictures))


def test_broken_files(files, capsys):
    with pytest.raises(OSError, match=r"cannot read .*broken\.png"):
        load_images(files, 8)
    images, kept = load_images([*files, "missing.png"], 8, on_error="skip", verbose=1)
    assert_array_equal(kept, [0, 1, 3])
    assert_array_equal(images, load_images([files[0], files[1], files[3]], 8))
    assert "3 of 5 images" in capsys.readouterr().out
    with pytest.raises(OSError, match=r"cannot read .*missing\.png"):
        load_images(["missing.png"])
    with pytest.raises(OSError, match="none of 1 files"):
        load_images(["missing.png"], on_error="skip")


def test_errors_of_load_images(files):
    with pytest.raises(ValueError, match=r"b\.bmp' is \(20, 30, 3\), others are .*: set size"):
        load_images(files[:2])
    with pytest.raises(ValueError, match=r"b\.bmp': crop=\(21, 1\) does not lie within its 20 x 30 pixels"):
        load_images(files[:2], crop=(21, 1))
    with pytest.raises(ValueError, match="is one path"):
        load_images(str(files[0]))
    with pytest.raises(ValueError, match="paths is empty"):
        load_images([])
    with pytest.raises(InvalidParameterError, match="on_error"):
        load_images(files, on_error="ignore")


def test_orientation_modes_and_depths(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(PICTURES[0])
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "upright.png", exif=exif)
    assert_array_equal(load_images([tmp_path / "upright.png"])[0], np.rot90(PICTURES[0], -1))

    alpha = np.dstack([PICTURES[0], np.full((HEIGHT, WIDTH), 128, np.uint8)])
    image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert_array_equal(load_images([tmp_path / "alpha.png"])[0], PICTURES[0])

    palette = picture.quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(8)))
    assert_array_equal(load_images([tmp_path / "palette.png"])[0], np.asarray(palette.convert("RGB")))

    bits = image.fromarray(PICTURES[0][..., 0] > 99)
    bits.save(tmp_path / "bits.png")
    assert_array_equal(load_images([tmp_path / "bits.png"], channels=1)[0, ..., 0], np.asarray(bits) * np.uint8(255))

    image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(OSError, match=r"deep\.png.*more than 8 bits"):
        load_images([tmp_path / "deep.png"])


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"load_images needs Pillow: pip install nbnet\[images\]"):
        load_images(["a.png"])


# ---------------------------------------------------------------- random changes

ALL_CHANGES = Augmentation(0.5, 0.5, 3, 30, 0.4)


def augmented(images, augmentation, *, seed=5, epoch=2, order=None, black=None, parts=1):
    """`augment_rows` with rows apart from one another, in `parts` calls."""
    n, *shape = images.shape
    size = int(np.prod(shape))
    source, target = np.full((n, size + 3), np.nan, images.dtype), np.full((n, size + 2), np.nan, images.dtype)
    source[:, 1 : size + 1] = images.reshape(n, size)
    order = np.arange(n) if order is None else order
    rule = augment_rule(augmentation, np.zeros(shape[2], images.dtype) if black is None else black)
    for part in range(parts):
        rows = (part * n // parts, (part + 1) * n // parts)
        where = Matrix(source.reshape(-1), 1, size + 3), Matrix(target.reshape(-1), 0, size + 2)
        augment_rows(*where, tuple(shape), order, rule, np.uint64(seed), np.uint64(epoch), rows)
    assert np.isnan(target[:, size:]).all()
    return target[:, :size].reshape(images.shape)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(0.5, 0.5),
        Augmentation(shift=4),
        Augmentation(0.5, 0.3, 2, brightness=0.5),
        Augmentation(rotation=180),
        ALL_CHANGES,
    ],
)
@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 6, 1), (4, 4, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_augmentation_equals_twin(augmentation, shape, dtype):
    seed, epoch = 2**40 + 5, 2
    images = np.random.default_rng(0).normal(size=(6, *shape)).astype(dtype)
    black = np.linspace(-2, 0, shape[2]).astype(dtype)
    order = np.array([5, 0, 123456, 2, 9, 1])
    values = augmented(images, augmentation, seed=seed, epoch=epoch, order=order, black=black)
    for image, row, changed in zip(images, order, values, strict=True):
        expected = reference.augment(image, augmentation, int(row), seed, epoch, black)
        assert_allclose(changed, expected, atol=1e-5 if dtype == np.float32 else 1e-12)


def test_changes_belong_to_the_image_and_the_epoch():
    images = random_images(9, 8, 8, 1, dtype=np.float32)
    values = augmented(images, ALL_CHANGES)
    assert_array_equal(augmented(images, ALL_CHANGES), values)
    assert_array_equal(augmented(images, ALL_CHANGES, parts=4), values)
    order = np.random.default_rng(0).permutation(9)
    assert_array_equal(augmented(images[order], ALL_CHANGES, order=order), values[order])
    for other in (augmented(images, ALL_CHANGES, epoch=3), augmented(images, ALL_CHANGES, seed=6)):
        assert all((a != b).any() for a, b in zip(other, values, strict=True))


def test_flips_and_shifts_are_exact_and_as_frequent_as_asked():
    n = 60 if JIT_DISABLED else 4000
    image = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    images = np.repeat(image[None], n, axis=0)
    flipped = augmented(images, Augmentation(horizontal_flip=0.3))
    mirrored = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    assert_array_equal(flipped[~mirrored], images[~mirrored])
    assert abs(mirrored.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / n)
    assert_array_equal(augmented(images, Augmentation(1, 1)), images[:, ::-1, ::-1])

    shifted = augmented(images, Augmentation(shift=1))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    places = [padded[1 - h : 6 - h, 1 - w : 5 - w] for h in (-1, 0, 1) for w in (-1, 0, 1)]
    counts = np.array([(shifted == place).all(axis=(1, 2, 3)).sum() for place in places])
    assert counts.sum() == n
    assert np.abs(counts / n - 1 / 9).max() < 4 * np.sqrt(8 / 81 / n)


def test_rotation_turns_and_brightness_scales():
    n = 40 if JIT_DISABLED else 2000
    images = np.full((n, 9, 9, 1), 3, np.float32)
    brightness = augmented(images, Augmentation(brightness=0.2))
    assert_array_equal(brightness.min(axis=(1, 2, 3)), brightness.max(axis=(1, 2, 3)))
    factors = brightness[:, 0, 0, 0] / 3
    assert 0.8 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2
    turned = augmented(images, Augmentation(rotation=45))
    assert_allclose(turned[:, 3:6, 3:6], 3, rtol=1e-6)  # the middle stays inside
    assert np.mean(turned[:, 0, 0, 0] < 3) > 0.9  # corners leave


def test_augment_images():
    values = augment_images(DIGITS, ALL_CHANGES, random_state=3, epoch=1)
    assert values.shape == DIGITS.shape
    assert values.dtype == np.float32
    assert_array_equal(values, augment_images(DIGITS[..., None], ALL_CHANGES, random_state=3, epoch=1)[..., 0])
    assert_array_equal(augment_images(DIGITS, Augmentation()), DIGITS)
    with pytest.raises(ValueError, match="images has shape"):
        augment_images(DIGITS[0], ALL_CHANGES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizontal_flip", True),
        ("vertical_flip", 1.5),
        ("shift", 0.5),
        ("shift", -1),
        ("rotation", 181),
        ("brightness", np.nan),
    ],
)
def test_wrong_augmentations(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r} of an Augmentation"):
        augment_rule(Augmentation(**{field: value}), np.zeros(1))
