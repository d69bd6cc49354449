"""Procedural colour: noise, patterns and plausible random colours, for objects, clothes and backgrounds."""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # values 0 to 1, sRGB

TEXTURE_SIZE = 128


def noise(rng: np.random.Generator, height: int, width: int, *, cells: int = 4, octaves: int = 4) -> Image:
    """(H, W) smooth noise in 0..1: `cells` bumps across, then octaves of twice as many, half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        grid = rng.random((cells * 2**octave + 1, cells * 2**octave + 1), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def random_colour(rng: np.random.Generator) -> Image:
    """A colour that things have: any hue, mostly muted, from dark to light."""
    hue = rng.uniform(0, 360)
    saturation = rng.beta(0.9, 2.2)
    value = 0.05 + 0.95 * rng.beta(1.5, 1.1)
    pixel = np.array([[[hue, saturation, value]]], np.float32)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def pattern(rng: np.random.Generator, size: int = TEXTURE_SIZE) -> Image:
    """(size, size, 3) of one random kind: plain, stripes, checks, dots, marble, wood, or a printed label."""
    kind = rng.choice(["plain", "stripes", "checks", "dots", "marble", "wood", "label"])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    repeats = int(rng.integers(1, 8))
    if kind == "plain":
        share = np.zeros((size, size), np.float32)
    elif kind == "stripes":
        share = np.sin(2 * np.pi * repeats * (x if rng.random() < 0.5 else y)) > rng.uniform(-0.8, 0.8)
    elif kind == "checks":
        share = (np.floor(2 * repeats * x) + np.floor(2 * repeats * y)) % 2
    elif kind == "dots":
        share = np.hypot((x * repeats) % 1 - 0.5, (y * repeats) % 1 - 0.5) < rng.uniform(0.15, 0.4)
    elif kind == "marble":
        share = noise(rng, size, size, cells=repeats + 1, octaves=5)
    elif kind == "wood":
        share = 0.5 + 0.5 * np.sin(
            2 * np.pi * (repeats * x + 1.5 * noise(rng, size, size, cells=2, octaves=3))
        )
    else:
        return _label(rng, size)
    share = np.asarray(share, np.float32)[..., None]
    texture: Image = random_colour(rng) * (1 - share) + random_colour(rng) * share
    grain = noise(rng, size, size, cells=8, octaves=3)[..., None] - 0.5
    texture += np.float32(rng.uniform(0, 0.15)) * grain
    return texture.clip(0, 1)


def _label(rng: np.random.Generator, size: int) -> Image:
    """Blocks and rows of writing-like dashes, as on packages."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = random_colour(rng)
    for _ in range(int(rng.integers(2, 6))):
        left, top, right, bottom = (int(v) for v in rng.integers(0, size, 4))
        cv2.rectangle(canvas, (left, top), (right, bottom), random_colour(rng).tolist(), -1)
    ink = random_colour(rng).tolist()
    thickness = int(rng.integers(1, 4))
    for line in range(int(rng.integers(4, size // 2)), size, int(rng.integers(6, 16))):
        start = int(rng.integers(0, size // 3))
        while start < size:
            dash = int(rng.integers(2, 18))
            cv2.line(canvas, (start, line), (start + dash, line), ink, thickness)
            start += dash + int(rng.integers(3, 8))
    return canvas
