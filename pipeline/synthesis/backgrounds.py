"""What stands behind the hand: walls, desks, clutter, colour fields; out of focus more often than not."""

import cv2
import numpy as np

from pipeline.synthesis.textures import Image, noise, pattern, random_colour


def background(rng: np.random.Generator, height: int, width: int) -> Image:
    """(H, W, 3) sRGB in 0..1: one base, some clutter on it, uneven light, and a blur."""
    base = rng.choice(["gradient", "clouds", "tiles", "desk"], p=[0.2, 0.2, 0.3, 0.3])
    if base == "gradient":
        canvas = _gradient(rng, height, width)
    elif base == "clouds":
        share = noise(rng, height, width, cells=int(rng.integers(2, 6)), octaves=5)[..., None]
        canvas = random_colour(rng) * (1 - share) + random_colour(rng) * share
    elif base == "tiles":
        canvas = _plane(rng, height, width)
    else:
        canvas = _desk(rng, height, width)
    for _ in range(int(rng.choice([0, 2, 6, 14]))):
        _clutter(rng, canvas)
    canvas *= (0.6 + 0.4 * noise(rng, height, width, cells=2, octaves=1))[..., None]
    sigma = float(rng.choice([0.7, 1.2, 2.5, 5.0])) * width / 320
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma), np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Image:
    corners = np.stack([random_colour(rng) for _ in range(4)]).reshape(2, 2, 3)
    return np.asarray(cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _plane(rng: np.random.Generator, height: int, width: int) -> Image:
    """A patterned plane seen at a slant, repeated by mirroring."""
    source = pattern(rng)
    size = len(source)
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    square = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    target += rng.uniform(-0.35, 0.35, (4, 2)).astype(np.float32) * width
    mapping = cv2.getPerspectiveTransform(square, target)
    warped = cv2.warpPerspective(
        source, mapping, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(warped, np.float32)


def _desk(rng: np.random.Generator, height: int, width: int) -> Image:
    """A wall above a table's edge, which may lean a little."""
    canvas = _gradient(rng, height, width) if rng.random() < 0.6 else _plane(rng, height, width)
    table = _plane(rng, height, width) * rng.uniform(0.5, 1.0)
    horizon = rng.uniform(0.1, 0.8) * height
    lean = rng.normal(0, 0.12)
    y, x = np.mgrid[0:height, 0:width]
    below = y > horizon + lean * (x - width / 2)
    canvas[below] = table[below]
    return canvas


def _clutter(rng: np.random.Generator, canvas: Image) -> None:
    """Draw one box, disc, polygon or cable onto the canvas."""
    height, width = canvas.shape[:2]
    centre = rng.uniform(-0.1, 1.1, 2) * (width, height)
    extent = rng.uniform(0.02, 0.35) * width
    colour = random_colour(rng).tolist()
    kind = rng.integers(4)
    if kind == 0:
        angle = float(rng.uniform(0, 180))
        corners = cv2.boxPoints((tuple(centre), (float(extent), float(extent * rng.uniform(0.3, 2))), angle))
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour)
    elif kind == 1:
        axes = (int(extent / 2), int(extent * rng.uniform(0.2, 0.5)))
        cv2.ellipse(
            canvas, (int(centre[0]), int(centre[1])), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1
        )
    elif kind == 2:
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        spokes = (
            np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.3, 1, (len(turns), 1)) * extent
        )
        cv2.fillPoly(canvas, [(centre + spokes).astype(np.int32)], colour)
    else:
        path = centre + np.cumsum(rng.normal(0, extent / 2, (6, 2)), axis=0)
        cv2.polylines(canvas, [path.astype(np.int32)], False, colour, int(rng.integers(1, 9)))
