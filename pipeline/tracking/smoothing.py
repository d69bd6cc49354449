"""Zero-phase smoothing of irregularly timed values and rotations, and what is put into gaps.

Every value becomes that of a straight line (of a rotation: of a steady turn) through its neighbours at its own time,
weighted by a Gaussian of their distance in time and by confidence. Such a line leaves steady motion where it is, at
the ends of a track and with uneven times too, and a window that looks as far ahead as back does not lag.

N samples, W samples in the widest window, J joints; seconds, radians.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Samples = TypeVar("Samples")

REACH = 3.0  # in standard deviations of the Gaussian
LEAST_WEIGHT = 1e-3
NEXT_TO_NOTHING = 1e-4  # squared: where no neighbour is trusted, there is a line still
ROUNDS = 3  # the base of the tangent space moves by less than 1e-6 in a fourth
DOUBTS = 2  # how often what is far from its neighbours' line is weighed anew
MEDOID_OF = 5  # samples, of which two may be anywhere
OUTLIER_RAD = np.radians(60)
FARTHEST_LINE = 10.0  # from the samples' mean, in their standard deviations: beyond it a line is their noise
AT_ONCE = 1 << 18  # numbers of windows that are held at a time


@dataclass(frozen=True)
class Windows:
    """Which samples make up each smoothed one, and with which shares.

    first, last: a sample's window, None where every sample is its own.
    """

    times: Floats
    weights: Floats
    strength_s: float
    first: Ints | None
    last: Ints | None

    def chunks(self) -> Iterator[tuple[slice, Ints, Floats]]:
        """Yields, some samples n at a time, the samples (n, W) of their windows and these samples' shares.

        Shares sum to 1, and their first moment is 0 wherever samples determine a line.
        """
        count = len(self.times)
        if self.first is None or self.last is None:
            yield slice(0, count), np.arange(count)[:, None], np.ones((count, 1))
            return
        step = max(1, AT_ONCE // int((self.last - self.first).max()))
        for start in range(0, count, step):
            rows = slice(start, start + step)
            yield rows, *self._of(self.times[rows], self.first[rows], self.last[rows])

    def _of(self, times: Floats, first: Ints, last: Ints) -> tuple[Ints, Floats]:
        index = first[:, None] + np.arange((last - first).max())
        inside = index < last[:, None]
        index = np.minimum(index, len(self.times) - 1)
        away = (self.times[index] - times[:, None]) / self.strength_s
        weight = self.weights[index] * np.exp(-(away**2) / 2) * inside
        zeroth, first_moment, second = (
            (weight * away**power).sum(axis=1, keepdims=True) for power in (0, 1, 2)
        )
        determinant = zeroth * second - first_moment**2
        # One time alone determines no line, and no more do times that lie close together far from here, as those of a
        # burst do. Rounding hides a spread below the second bound.
        has_line = determinant > np.maximum((first_moment / FARTHEST_LINE) ** 2, 1e-9 * zeroth**2)
        line = weight * (second - first_moment * away) / np.where(has_line, determinant, 1.0)
        return index, np.where(has_line, line, weight / zeroth)


def windows(times: Floats, weights: Floats, strength_s: float) -> Windows:
    """Returns the windows of samples at ascending times (N,); weights (N,) are relative, and above 0.

    strength_s: the Gaussian's standard deviation; 0 leaves everything as it is.
    """
    if strength_s <= 0 or len(times) < 2:
        return Windows(times, weights, strength_s, None, None)
    reach = REACH * strength_s
    first = np.searchsorted(times, times - reach, "left")
    last = np.searchsorted(times, times + reach, "right")
    return Windows(times, weights, strength_s, first, last)


def alone(times: Floats, strength_s: float) -> NDArray[np.bool_]:
    """Returns which samples at ascending times (N,) no other one is near enough to smooth, where anything is."""
    far = np.diff(times, prepend=-np.inf, append=np.inf) > REACH * strength_s
    return np.asarray(far[:-1] & far[1:] & (strength_s > 0), np.bool_)


def smooth(values: Floats, window: Windows) -> Floats:
    """Smooths (N, …) values."""
    flat = values.reshape(len(values), -1)
    done = np.empty_like(flat)
    for rows, index, share in window.chunks():
        done[rows] = np.einsum("nw,nwd->nd", share, flat[index])
    return done.reshape(values.shape)


def smooth_points(
    points: Floats, times: Floats, weights: Floats, strength_s: float, farthest: float
) -> Floats:
    """Smooths points (N, D).

    times, strength_s: as in `windows`. farthest: a point so far from its neighbours' line counts for next to nothing
    in theirs, unless six times the usual is farther; a nearer one counts the less the farther it is.
    """
    weights = np.maximum(weights, LEAST_WEIGHT)

    def line(trust: Floats, _: Floats) -> Floats:
        return smooth(points, windows(times, weights * trust, strength_s))

    def off(smoothed: Floats) -> Floats:
        return np.asarray(np.linalg.norm(smoothed - points, axis=1), np.float64)

    def apart(about: Ints) -> Floats:
        some = points[about]
        return np.asarray(np.linalg.norm(some[:, :, None] - some[:, None], axis=3), np.float64)

    return _doubting(points[_medoids(len(points), apart)], line, off, farthest)


def smooth_rotations(axis_angle: Floats, times: Floats, weights: Floats, strength_s: float) -> Floats:
    """Smooths rotations (N, J, 3), each joint's in the tangent space at its running mean; angles come within [0, π].

    times, strength_s: as in `windows`. A frame that is far from its neighbours' line, as one is in which the hand was
    seen the wrong way round, counts the less in theirs the farther it is. Rotations of a window must be less than π
    from its mean; axis-angle vectors of any angle are taken.
    """
    turns = [
        _smooth_turns(Rotation.from_rotvec(axis_angle[:, joint]), times, weights, strength_s).as_rotvec()
        for joint in range(axis_angle.shape[1])
    ]
    return np.stack(turns, axis=1)


def _smooth_turns(observed: Rotation, times: Floats, weights: Floats, strength_s: float) -> Rotation:
    weights, quaternions = np.maximum(weights, LEAST_WEIGHT), observed.as_quat()

    def line(trust: Floats, start: Rotation) -> Rotation:
        return _smoothed(observed, start, windows(times, weights * trust, strength_s))

    def off(smoothed: Rotation) -> Floats:
        return np.asarray((smoothed.inv() * observed).magnitude(), np.float64)

    def apart(about: Ints) -> Floats:
        some = quaternions[about]
        cosines = np.abs(np.einsum("nad,nbd->nab", some, some))
        return np.asarray(2 * np.arccos(np.minimum(cosines, 1.0)), np.float64)

    return _doubting(observed[_medoids(len(times), apart)], line, off, OUTLIER_RAD)


def _medoids(count: int, apart: Callable[[Ints], Floats]) -> Ints:
    """Returns, for each of N samples, which one of the few about it is the nearest to all of these.

    It is where a line can start: one sample that is far off, at an end of a track above all, draws a line to itself,
    and looks as if it were right. apart: how far samples (N, M) are from each other, (N, M, M).
    """
    few = min(MEDOID_OF, count)
    first = np.clip(np.arange(count) - few // 2, 0, count - few)
    about = first[:, None] + np.arange(few)
    step = AT_ONCE // few**2
    nearest = [
        apart(about[start : start + step]).sum(axis=2).argmin(axis=1) for start in range(0, count, step)
    ]
    return np.asarray(about[np.arange(count), np.concatenate(nearest)], np.int64)


def _doubting(
    start: Samples,
    line: Callable[[Floats, Samples], Samples],
    off: Callable[[Samples], Floats],
    farthest: float,
) -> Samples:
    """Returns a line through N samples in which one counts the less the farther off it is (Cleveland 1979).

    start: where the samples lie, roughly. line: takes how far each is trusted (N,) and the line before, and gives the
    next one. off: how far (N,) the samples are from a line. farthest: what is so far off counts for next to nothing,
    unless six times the usual is farther.
    """
    smoothed = start
    for _ in range(1 + DOUBTS):
        away = off(smoothed)
        limit = max(farthest, 6 * float(np.median(away)), np.finfo(np.float64).tiny)
        if smoothed is not start and away.max() < 0.1 * limit:
            break
        smoothed = line(np.maximum(NEXT_TO_NOTHING, 1 - (away / limit) ** 2) ** 2, smoothed)
    return smoothed


def _smoothed(observed: Rotation, start: Rotation, window: Windows) -> Rotation:
    """Returns each window's mean of N rotations, found from a start that is not far from it."""
    means = []
    for rows, index, share in window.chunks():
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
