"""Slow, obvious twins of the image kernels, in plain Python floats."""

import math

import numpy as np

LUMA = (0.299, 0.587, 0.114)


def area_mean(image, n_out, axis):
    """Mean along `axis` of what each of `n_out` equal parts covers of the pixels, cut into parts where they must be."""
    image = np.moveaxis(np.asarray(image, float), axis, 0)
    step = len(image) / n_out
    out = np.zeros((n_out, *image.shape[1:]))
    for o in range(n_out):
        for pixel, values in enumerate(image):
            covered = min(pixel + 1, (o + 1) * step) - max(pixel, o * step)
            if covered > 0:
                out[o] += covered / step * values
    return np.moveaxis(out, 0, axis)


def linear(image, n_out, axis):
    """Values on the line through the centers of the pixels along `axis`; constant beyond the first and the last."""
    image = np.moveaxis(np.asarray(image, float), axis, 0)
    centers, wanted = np.arange(len(image)) + 0.5, (np.arange(n_out) + 0.5) * len(image) / n_out
    columns = [np.interp(wanted, centers, column) for column in image.reshape(len(image), -1).T]
    return np.moveaxis(np.stack(columns, axis=-1).reshape(n_out, *image.shape[1:]), 0, axis)


def resize(image, size, interpolation):
    """float64 (height, width, ...) of one image."""
    along = {"area": area_mean, "bilinear": linear}[interpolation]
    return along(along(image, size[0], 0), size[1], 1)


def convert(image, channels):
    """float64 (height, width, channels) of an image (height, width, 1 or 3)."""
    if channels == 1 and image.shape[2] == 3:
        return (image @ np.array(LUMA))[..., None]
    return np.broadcast_to(image, (*image.shape[:2], channels)).astype(float)


def philox(counter, seed):
    """Philox4x32-10 in Python integers."""
    c, k = list(counter), [seed % 2**32, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def augment(image, augmentation, row, seed, epoch, black):
    """One image (height, width, channels), step by step: flip, rotate, shift, with brightness and an outside of 0."""
    r = [word / 2**32 for word in philox((row, 0, epoch, 3), seed)]
    s = [word / 2**32 for word in philox((row, 1, epoch, 3), seed)]
    image = np.asarray(image, float)
    if r[0] < augmentation.horizontal_flip:
        image = image[:, ::-1]
    if r[1] < augmentation.vertical_flip:
        image = image[::-1]
    image = black + (1 + augmentation.brightness * (2 * s[1] - 1)) * (image - black)
    angle = math.radians(augmentation.rotation * (2 * s[0] - 1))
    down, right = (math.floor((2 * augmentation.shift + 1) * u) - augmentation.shift for u in r[2:])

    height, width, _ = image.shape
    margin = height + width + augmentation.shift + 2
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    out = np.empty_like(image)
    turn = complex(math.cos(angle), math.sin(angle))
    middle = complex((width - 1) / 2, (height - 1) / 2)
    for h in range(height):
        for w in range(width):
            source = (complex(w - right, h - down) - middle) * turn + middle
            top, left = math.floor(source.imag), math.floor(source.real)
            b, a = source.imag - top, source.real - left
            block = padded[top + margin : top + margin + 2, left + margin : left + margin + 2]
            out[h, w] = np.einsum("i,j,ijc->c", [1 - b, b], [1 - a, a], block)
    return out
