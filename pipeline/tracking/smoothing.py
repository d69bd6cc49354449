"""Zero-phase smoothing of irregularly timed values and rotations, and what is put into gaps.

Every value becomes that of a straight line (of a rotation: of a steady turn) through its neighbours at its own time,
weighted by a Gaussian of their distance in time and by confidence. Such a line leaves steady motion where it is, at
the ends of a track and with uneven times too, and a window that looks as far ahead as back does not lag.

N samples, W samples in the widest window, J joints; seconds, radians.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REACH = 3.0  # in standard deviations of the Gaussian
LEAST_WEIGHT = 1e-3
ROUNDS = 3  # the base of the tangent space moves by less than 1e-6 in a fourth
DOUBTS = 2  # how often what is far from its neighbours' line is weighed anew
# What is so far off counts for nothing, unless six times the usual is farther.
OUTLIER_RAD = np.radians(60)
AT_ONCE = 1 << 18  # numbers of windows that are held at a time


@dataclass(frozen=True)
class Windows:
    """Which samples make up each smoothed one, and with which shares: these sum to 1, their first moment is 0."""

    index: Ints  # (N, W)
    share: Floats  # (N, W)

    def chunks(self) -> Iterator[slice]:
        step = max(1, AT_ONCE // self.index.shape[1])
        for start in range(0, len(self.index), step):
            yield slice(start, start + step)


def windows(times: Floats, weights: Floats, strength_s: float) -> Windows:
    """Returns the windows of samples at ascending times (N,); weights (N,) are relative.

    strength_s: the Gaussian's standard deviation; 0 leaves everything as it is.
    """
    count = len(times)
    if strength_s <= 0 or count < 2:
        return Windows(np.arange(count)[:, None], np.ones((count, 1)))
    reach = REACH * strength_s
    first = np.searchsorted(times, times - reach, "left")
    last = np.searchsorted(times, times + reach, "right")
    index = first[:, None] + np.arange((last - first).max())
    inside = index < last[:, None]
    index = np.minimum(index, count - 1)
    away = (times[index] - times[:, None]) / strength_s
    weight = np.maximum(weights, LEAST_WEIGHT)[index] * np.exp(-(away**2) / 2) * inside
    zeroth, first_moment, second = ((weight * away**power).sum(axis=1, keepdims=True) for power in (0, 1, 2))
    determinant = zeroth * second - first_moment**2
    # One time alone, or all but one so far away that they weigh nothing, determine no line.
    has_line = determinant > 1e-9 * zeroth**2
    line = weight * (second - first_moment * away) / np.where(has_line, determinant, 1.0)
    return Windows(index, np.where(has_line, line, weight / zeroth))


def smooth(values: Floats, window: Windows) -> Floats:
    """Smooths (N, …) values."""
    flat = values.reshape(len(values), -1)
    done = np.empty_like(flat)
    for rows in window.chunks():
        done[rows] = np.einsum("nw,nwd->nd", window.share[rows], flat[window.index[rows]])
    return done.reshape(values.shape)


def smooth_rotations(axis_angle: Floats, times: Floats, weights: Floats, strength_s: float) -> Floats:
    """Smooths rotations (N, J, 3), each joint's in the tangent space at its running mean; angles come within [0, π].

    times, weights, strength_s: as in `windows`. A frame that is far from its neighbours' line, as one is in which the
    hand was seen the wrong way round, counts the less in it the farther it is (Cleveland 1979). Rotations of a window
    must be less than π from its mean; axis-angle vectors of any angle are taken.
    """
    done = np.empty_like(axis_angle)
    for joint in range(axis_angle.shape[1]):
        observed = smoothed = Rotation.from_rotvec(axis_angle[:, joint])
        trust = np.ones(len(times))
        for _ in range(1 + DOUBTS):
            smoothed = _smoothed(observed, smoothed, windows(times, weights * trust, strength_s))
            off = (smoothed.inv() * observed).magnitude()
            farthest = max(OUTLIER_RAD, 6 * float(np.median(off)))
            if off.max() < 0.1 * farthest:
                break
            trust = np.maximum(0.0, 1 - (off / farthest) ** 2) ** 2
        done[:, joint] = smoothed.as_rotvec()
    return done


def _smoothed(observed: Rotation, start: Rotation, window: Windows) -> Rotation:
    """Returns each window's mean of N rotations, found from a start that is not far from it."""
    means = []
    for rows in window.chunks():
        index, share = window.index[rows], window.share[rows]
        neighbours, mean = observed[index.ravel()], start[rows]
        for _ in range(ROUNDS):
            base = Rotation.from_quat(np.repeat(mean.as_quat(), index.shape[1], axis=0))
            tangents = (base.inv() * neighbours).as_rotvec().reshape(*index.shape, 3)
            mean = mean * Rotation.from_rotvec(np.einsum("nw,nwd->nd", share, tangents))
        means.append(mean.as_quat())
    return Rotation.from_quat(np.concatenate(means))


def between(times: Floats, values: Floats, at: Floats) -> Floats:
    """Returns values (N, …) of ascending times at others that lie within them, on straight lines."""
    flat = values.reshape(len(values), -1)
    columns = [np.interp(at, times, column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(len(at), *values.shape[1:])


def rotations_between(times: Floats, axis_angle: Floats, at: Floats) -> Floats:
    """Returns rotations (N, J, 3) of ascending times at others that lie within them, on steady turns (slerp)."""
    if len(times) == 1:
        return np.repeat(axis_angle, len(at), axis=0)
    joints = range(axis_angle.shape[1])
    turns = [Slerp(times, Rotation.from_rotvec(axis_angle[:, joint]))(at).as_rotvec() for joint in joints]
    return np.stack(turns, axis=1)


def robust_mean(values: Floats, weights: Floats) -> Floats:
    """Returns the weighted mean (D,) of (N, D) in which what is far from the median counts less (Huber, k = 1.5)."""
    weights = np.maximum(weights, LEAST_WEIGHT)[:, None]
    centre = np.median(values, axis=0)
    scale = 1.4826 * np.median(np.abs(values - centre), axis=0)
    limit = 1.5 * np.maximum(scale, 1e-9)
    mean = centre
    for _ in range(20):
        pull = weights * np.minimum(1.0, limit / np.maximum(np.abs(values - mean), 1e-12))
        mean = (pull * values).sum(axis=0) / pull.sum(axis=0)
    return np.asarray(mean, np.float64)
