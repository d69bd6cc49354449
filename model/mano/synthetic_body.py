"""The flesh of the procedural hand: a smooth implicit body around its bones, negative inside.

Fingers have measured profiles (half width, depth to the nail side, depth to the palm side, along the axis); the palm
is a smooth union of rounded bars: the five rays, thenar and hypothenar, the webs and the wrist. Right hand, rest pose,
metres.
"""

from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from scipy.interpolate import PchipInterpolator

from model.mano.synthetic_skeleton import MM, Array, Finger, fingers, from_wrist

# Profiles in millimetres at: 12 mm before the first joint, the first joint, the middle of the first bone, the second
# joint, the middle of the second bone, the third joint, the middle of the last bone (whose rounded end follows).
_WIDTH: Final = {
    "thumb": (9.0, 11.0, 10.2, 11.5, 9.7, 10.5, 10.2),
    "index": (8.5, 9.4, 9.5, 9.7, 8.7, 8.6, 8.3),
    "middle": (8.5, 9.4, 9.8, 9.9, 9.0, 8.8, 8.5),
    "ring": (8.0, 8.8, 9.0, 9.2, 8.4, 8.2, 8.0),
    "little": (7.5, 8.0, 8.0, 8.1, 7.3, 7.2, 7.0),
}
_DORSAL: Final = {
    "thumb": (8.0, 9.5, 8.4, 9.7, 7.4, 8.3, 6.9),
    "index": (7.5, 10.2, 7.5, 8.5, 6.7, 7.0, 5.6),
    "middle": (7.8, 10.6, 7.8, 8.9, 7.0, 7.3, 5.8),
    "ring": (7.0, 9.8, 7.3, 8.3, 6.6, 6.9, 5.5),
    "little": (6.0, 8.9, 6.5, 7.3, 5.8, 6.1, 4.9),
}
_PALMAR: Final = {
    "thumb": (12.0, 12.0, 11.0, 10.4, 9.9, 8.6, 9.4),
    "index": (9.0, 11.0, 10.6, 8.9, 9.2, 7.2, 7.9),
    "middle": (9.0, 11.3, 11.0, 9.2, 9.6, 7.5, 8.1),
    "ring": (8.5, 10.7, 10.2, 8.6, 9.0, 7.0, 7.7),
    "little": (7.5, 9.7, 9.0, 7.6, 7.8, 6.1, 6.7),
}
_ROUNDNESS: Final = 2.15  # of the cross-section; 2 is an ellipse
_ROOT_CAP_M: Final = 0.03  # how far a finger's body reaches into the palm before its first joint
_SOFT_PALM_M: Final = 0.0042  # smooth unions inside the palm, and of a finger with the palm
_SOFT_FINGER_M: Final = 0.0022

# Bars of the palm: two ends as (distal, dorsal, radial) of the wrist, and the radius at each. Millimetres.
_BARS: Final = (
    # wrist
    ((-40, 0, 12), (12, -1, 10), 17.0, 14.5),
    ((-40, -1, -12.5), (12, -2, -10.5), 17.0, 14.5),
    # the four rays from the carpal bones to the knuckles
    ((16, -3, 11), (84, -5, 24), 11.5, 9.4),
    ((18, -2, 3), (86, -3.5, 4), 11.0, 9.6),
    ((17, -3, -6), (80, -5, -14), 11.0, 9.0),
    ((14, -4, -13), (70, -8, -31), 11.0, 8.8),
    # pads under the knuckles
    ((70, -9, 20), (98, -9, 24), 6.5, 5.5),
    ((72, -8, 4), (101, -8, 4), 6.5, 5.5),
    ((67, -9, -12), (95, -8, -16), 6.5, 5.5),
    ((58, -11, -29), (84, -9, -33), 6.5, 5.5),
    # hypothenar
    ((6, -9, -15), (50, -12, -33.2), 9.8, 9.2),
    ((50, -12, -33.2), (72, -10, -33), 9.0, 7.0),
    # thenar: along the thumb's metacarpal, and its bulk in the palm
    ((16, -10, 18), (52, -24, 50), 10.5, 9.0),
    ((24, -16, 15), (44, -22, 34), 10.0, 10.5),
)
# The first web: a sheet between the index ray, its knuckle and the thumb's; half its thickness follows.
_FIRST_WEB: Final = (((36, -12, 24), (78, -8, 27), (43, -18, 38)), 6.5)

# Webs between neighbours: distance along both fingers, height, radius. Millimetres.
_WEBS: Final = ((3.0, -3.0, 6.5), (8.0, -5.0, 5.5))


@cache
def _profiles(name: str) -> PchipInterpolator:
    """(width, dorsal, palmar) in metres against the distance along the finger."""
    _, second, third, tip = fingers()[name].stations
    knots = [-12 * MM, 0.0, second / 2, second, (second + third) / 2, third, (third + tip) / 2, tip]
    rows = np.array([_WIDTH[name], _DORSAL[name], _PALMAR[name]]) * MM
    ends = rows[:, -1:] * [[0.93], [0.85], [0.93]]
    return PchipInterpolator(knots, np.concatenate([rows, ends], axis=1).T, extrapolate=True)


def profile(finger: Finger, s: Array) -> Array:
    """Half width, dorsal depth and palmar depth (..., 3) of a finger at distances s (...) along its axis."""
    depths: Array = _profiles(finger.name)(np.clip(s, -12 * MM, finger.stations[3]))
    return depths


def finger_distance(finger: Finger, points: Array) -> Array:
    """About the signed distance of points (N, 3) to one finger's own body."""
    s, radial, dorsal = finger.coordinates(points)
    tip = finger.stations[3]
    cap = 1.35 * profile(finger, tip)[0]
    width, above, below = profile(finger, np.minimum(s, tip - cap)).T
    depth = np.where(dorsal > 0, above, below)
    powers = (np.abs(radial) / width) ** _ROUNDNESS + (np.abs(dorsal) / depth) ** _ROUNDNESS
    section = powers ** (1 / _ROUNDNESS)
    beyond = np.maximum(s - (tip - cap), 0) / cap + np.maximum(-s, 0) / _ROOT_CAP_M
    size = np.sqrt(section**2 + beyond**2)
    reach = np.sqrt(radial**2 + dorsal**2 + np.maximum(s - (tip - cap), 0) ** 2 + np.minimum(s, 0) ** 2)
    # On the axis reach and size are both 0; the depth there is the smallest radius.
    return np.asarray(
        np.where(size > 1e-6, reach * (1 - 1 / np.maximum(size, 1e-6)), -np.minimum(width, depth))
    )


@cache
def _bars() -> tuple[Array, Array, Array, Array]:
    """Both ends (K, 3) and both radii (K,) of all rounded bars of the palm, webs between the fingers included."""
    starts = [from_wrist(np.array(bar[0]) * MM) for bar in _BARS]
    ends = [from_wrist(np.array(bar[1]) * MM) for bar in _BARS]
    radii = [(bar[2] * MM, bar[3] * MM) for bar in _BARS]
    row = [fingers()[name] for name in ("index", "middle", "ring", "little")]
    for left, right in pairwise(row):
        for s, height, radius in _WEBS:
            scale = right.lengths[0] / (45 * MM)
            starts.append(left.point(np.array(s * MM * scale)) + height * MM * left.dorsal)
            ends.append(right.point(np.array(s * MM * scale)) + height * MM * right.dorsal)
            radii.append((radius * MM * scale, radius * MM * scale))
    first, second = np.array(radii).T
    return np.array(starts), np.array(ends), first, second


def _soft_minimum(distances: Array, softness: float) -> Array:
    """A smooth minimum over the last axis, slightly below the true one where several are close."""
    lowest = distances.min(axis=-1, keepdims=True)
    total = np.exp((lowest - distances) / softness).sum(axis=-1)
    return np.asarray(lowest[..., 0] - softness * np.log(total))


def _palm_distance(points: Array) -> Array:
    start, end, first, second = _bars()
    bar = end - start
    offset = points[:, None] - start
    share = np.clip((offset * bar).sum(-1) / (bar**2).sum(-1), 0, 1)
    distance = np.linalg.norm(offset - share[..., None] * bar, axis=-1) - (first + share * (second - first))
    return _soft_minimum(np.concatenate([distance, _web_distance(points)[:, None]], axis=1), _SOFT_PALM_M)


def _web_distance(points: Array) -> Array:
    """The distance to the sheet of the first web: to its plane inside the triangle, to the nearest edge outside."""
    corners = from_wrist(np.array(_FIRST_WEB[0]) * MM)
    sides = np.roll(corners, -1, axis=0) - corners
    normal = np.cross(sides[0], sides[1])
    normal /= np.linalg.norm(normal)
    offset = points[:, None] - corners
    share = np.clip((offset * sides).sum(-1) / (sides**2).sum(-1), 0, 1)
    to_edges = np.linalg.norm(offset - share[..., None] * sides, axis=-1).min(axis=1)
    inside = ((offset * np.cross(normal, sides)).sum(-1) > 0).all(axis=1)
    return np.asarray(np.where(inside, np.abs(offset[:, 0] @ normal), to_edges) - _FIRST_WEB[1] * MM)


def body_distance(points: Array, names: tuple[str, ...] = tuple(_WIDTH)) -> Array:
    """About the signed distance of points (N, 3) to the palm and the named fingers, (N,) metres."""
    parts = [_palm_distance(points), *(finger_distance(fingers()[name], points) for name in names)]
    return _soft_minimum(np.stack(parts, axis=-1), _SOFT_FINGER_M)


def body_gradient(points: Array) -> Array:
    """The gradient (N, 3) of `body_distance`, by central differences of 0.2 mm."""
    steps = np.eye(3) * 0.1 * MM
    probes = np.concatenate([points + step for step in steps] + [points - step for step in steps])
    values = body_distance(probes).reshape(2, 3, len(points))
    return np.asarray((values[0] - values[1]).T / (0.2 * MM))
