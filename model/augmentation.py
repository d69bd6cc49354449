"""What training changes about a crop by chance, and what that does to the labels.

The distributions are those of the published code (reference: RELEASE_NETWORK section 3); pasting occluders over the
hand is ours. Scale and turn are given to `model.crop.crop_affine`.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_CORNERS = 48  # of an occluder's outline


@dataclass(frozen=True, kw_only=True)
class AugmentationRanges:
    """How far each change goes; the defaults are the authors'.

    scale: of the crop's box, 1 ± scale. rotation_deg: standard deviation of the turn, which goes to twice as far.
    rotation_probability: that a crop is turned at all. colour: each channel is multiplied by 1 ± colour.
    paste: probability that a drawn occluder is laid over the crop; the authors have none.
    """

    scale: float = 0.25
    rotation_deg: float = 30.0
    rotation_probability: float = 0.6
    colour: float = 0.2
    paste: float = 0.0


@dataclass(frozen=True)
class Occluder:
    """Something opaque and striped that lies over a crop; positions in [0, 1] of the crop."""

    outline: Floats  # (48, 2)
    colours: Floats  # (2, 3) RGB, 0..255
    waves: Floats  # (2,) stripes across the crop in x and y


@dataclass(frozen=True)
class Augmentation:
    """One draw. rotation_deg: how far the crop's box is turned; what is seen turns the other way."""

    scale: float = 1.0
    rotation_deg: float = 0.0
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    occluder: Occluder | None = None


NO_AUGMENTATION = Augmentation()


def draw(rng: np.random.Generator, ranges: AugmentationRanges) -> Augmentation:
    """Draw scale, turn, colour and occluder; scale and turn are normal, cut at one and two deviations."""
    scale = 1 + ranges.scale * float(np.clip(rng.standard_normal(), -1, 1))
    turn = ranges.rotation_deg * float(np.clip(rng.standard_normal(), -2, 2))
    turned = rng.random() < ranges.rotation_probability
    red, green, blue = 1 + ranges.colour * rng.uniform(-1, 1, 3)
    pasted = rng.random() < ranges.paste
    return Augmentation(
        scale=scale,
        rotation_deg=turn if turned else 0.0,
        colour=(float(red), float(green), float(blue)),
        occluder=_draw_occluder(rng) if pasted else None,
    )


def turn_points(points: Floats, rotation_deg: float) -> Floats:
    """Turn points (..., 3) of camera axes about the optical axis, as a crop turned by rotation_deg shows them."""
    turned: Floats = points @ _turn(rotation_deg).T
    return turned


def turn_root(global_orient: Floats, rotation_deg: float) -> Floats:
    """Turn a global rotation (3,) in the same way; the angle of the axis-angle vector is then within [0, π]."""
    matrix = cv2.Rodrigues(np.asarray(global_orient, np.float64))[0]
    return np.asarray(cv2.Rodrigues(_turn(rotation_deg) @ matrix)[0].reshape(3))


def mirror_points(points: Floats) -> Floats:
    """Mirror points (..., 3): a left hand's as a right one's, and back."""
    return points * np.array([-1, 1, 1], points.dtype)


def mirror_pose(pose: Floats) -> Floats:
    """Mirror axis-angle vectors (..., 3): a left hand's as a right one's, and back."""
    return pose * np.array([1, -1, -1], pose.dtype)


def colour_crop(crop: NDArray[np.float32], colour: tuple[float, float, float]) -> NDArray[np.float32]:
    """Multiply the channels of an RGB crop (S, S, 3), and cut at 0 and 255."""
    if colour == NO_AUGMENTATION.colour:
        return crop
    coloured: NDArray[np.float32] = (crop * np.array(colour, np.float32)).clip(0, 255)
    return coloured


def paste(crop: NDArray[np.float32], occluder: Occluder, joints_2d: Floats) -> NDArray[np.bool_]:
    """Lay an occluder over an RGB crop (S, S, 3) in place, and return which joints (..., 2) it covers.

    joints_2d: in [0, 1] of the crop.
    """
    size = len(crop)
    low = np.clip(np.floor(occluder.outline.min(axis=0) * size), 0, size).astype(np.int64)
    high = np.clip(np.ceil(occluder.outline.max(axis=0) * size) + 1, 0, size).astype(np.int64)
    rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.rint(occluder.outline * size).astype(np.int32)], 1)
    y, x = np.ogrid[rows, columns]
    phase = (occluder.waves[0] * x + occluder.waves[1] * y) * (2 * np.pi / size)
    share = (0.5 + 0.5 * np.sin(phase))[..., None].astype(np.float32)
    first, second = occluder.colours.astype(np.float32)
    np.copyto(crop[rows, columns], first + share * (second - first), where=mask[rows, columns, None] > 0)

    cell = np.rint(np.clip(joints_2d, -1, 2) * size).astype(np.int64)
    inside = ((cell >= 0) & (cell < size)).all(axis=-1)
    at = np.clip(cell, 0, size - 1)
    covered: NDArray[np.bool_] = inside & (mask[at[..., 1], at[..., 0]] > 0)
    return covered


def _turn(rotation_deg: float) -> NDArray[np.float64]:
    """The rotation by -rotation_deg about the optical axis (x right, y down)."""
    angle = np.radians(rotation_deg)
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])


def _draw_occluder(rng: np.random.Generator) -> Occluder:
    """A random blob, box-like or round, of up to some two fifths of the crop's area."""
    center, radii = rng.uniform(0.2, 0.8, 2), rng.uniform(0.08, 0.32, 2)
    around = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(around), np.sin(around)], axis=1)
    # A superellipse: 2 is an ellipse, large numbers are boxes.
    exponent = rng.choice([2.0, 4.0, 12.0])
    outline = circle / (np.abs(circle) ** exponent).sum(axis=1, keepdims=True) ** (1 / exponent)
    bulges = rng.uniform(0, 0.2) * np.sin(rng.integers(1, 5) * around + rng.uniform(0, 2 * np.pi))
    outline = outline * radii * (1 + bulges[:, None])
    turn = _turn(rng.uniform(0, 360))[:2, :2]
    return Occluder(
        outline=center + outline @ turn.T,
        colours=rng.uniform(0, 255, (2, 3)),
        waves=rng.uniform(-12, 12, 2),
    )
