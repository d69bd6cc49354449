"""Camera space: where the wrist is, given a hand's joints relative to it, the joints in the image, and the camera.

N hands, J joints; metres, camera axes (x right, y down, z away); pixels of the original image, centres at integers;
a camera is fx, fy, cx, cy in those pixels. Left hands are no special case: nothing here is mirrored.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Steps that judge a joint by its distance (a wild one cannot pull far), then steps that judge it by whether it is
# one of many (a wild one counts for nothing). Ten times as many of both changed no median error of random hands, in
# the four digits looked at, with noise, wild joints, or both.
DISTANCE_STEPS: Final = 4
REDESCENDING_STEPS: Final = 6
# Geman and McClure's function leaves a quarter of its weight to a joint that is so many times as far off as half of
# the joints are; at 4 next to nothing is lost where all joints are equally good.
TUNING: Final = 4.0
# Residuals below this are as good as none.
FINEST_PX: Final = 0.05
# A hand is no nearer than this, and no step of the fit moves it nearer than half way to there.
NEAREST_M: Final = 0.01
# A depth says nothing where a pixel's error makes as much as this share of it, or where the last step still does:
# joints that are all on one pixel are explained the better the farther away they are.
LARGEST_UNCERTAINTY: Final = 0.5
LARGEST_LAST_STEP: Final = 0.05
# Steps to the depth where a hand is as large as it is seen; a hand is flat beside its distance, so that few do. Nearer
# than 0.25 m, where joints are imprecise, the last ones still swing by millimetres.
SIZE_STEPS: Final = 6

NO_CAMERA: Final = "no camera"
NO_JOINTS: Final = "no joint has a weight"
UNDETERMINED: Final = "the joints do not determine a depth"


class Placement(NamedTuple):
    """Where hands are. translation (N, 3): the wrists, NaN where `problem` (N) is not None but says why."""

    translation: Floats
    problem: list[str | None]


def project(points: Floats, camera: Floats) -> Floats:
    """Returns pixels (…, P, 2) of points (…, P, 3) in camera space; camera (…, 4)."""
    pixels: Floats = points[..., :2] / points[..., 2:] * camera[..., None, :2] + camera[..., None, 2:]
    return pixels


def place_hands(joints: Floats, joints_2d: Floats, weights: Floats, camera: Floats) -> Placement:
    """Finds the translations that explain joints_2d (N, J, 2) by wrist-relative joints (N, J, 3).

    The projection equations, which are linear in the translation, give a start in closed form; Gauss-Newton steps
    on the distances in pixels, which the equations weigh by depth, refine it. These steps take the 3D joints for exact;
    where they are not, the hand comes out too far away. So its depth is set, last, to where the projected joints spread
    as wide as the seen ones.

    weights (N, J), at least 0: how much each joint is to be believed; joints that do not agree with most others lose
    their weight besides. What is not finite has none. The same hand gets the same translation in any company, and
    always in front of the camera.
    """
    seen_NJ = np.asarray(np.isfinite(np.concatenate([joints, joints_2d], axis=2)).all(axis=2))
    weights_NJ = np.where(seen_NJ & np.isfinite(weights), weights, 0.0).clip(min=0.0)
    known_N = np.asarray(np.isfinite(camera).all(axis=1) & (camera[:, :2] > 0).all(axis=1))
    camera_N4 = np.where(known_N[:, None], camera, [1.0, 1.0, 0.0, 0.0])
    most_N = weights_NJ.max(axis=1, initial=0.0)
    weights_NJ /= np.where(most_N > 0, most_N, 1.0)[:, None]
    points_NJ3 = np.where(seen_NJ[..., None], joints, 0.0)
    focal_N12 = camera_N4[:, None, :2]
    rays_NJ2 = (np.where(seen_NJ[..., None], joints_2d, 0.0) - camera_N4[:, None, 2:]) / focal_N12

    nearest_N = NEAREST_M - np.where(weights_NJ > 0, points_NJ3[..., 2], np.inf).min(axis=1, initial=np.inf)
    nearest_N = np.where(most_N > 0, nearest_N, 0.0)
    with np.errstate(all="ignore"):
        start_N3 = _start(points_NJ3, rays_NJ2, weights_NJ, focal_N12, nearest_N)
        translation_N3, sure_N = _refined(start_N3, points_NJ3, rays_NJ2, weights_NJ, focal_N12, nearest_N)
        good_N = np.isfinite(translation_N3).all(axis=1) & sure_N
    problem: list[str | None] = [None] * len(joints)
    for row in np.flatnonzero(~(known_N & good_N)):
        problem[row] = NO_CAMERA if not known_N[row] else UNDETERMINED if most_N[row] > 0 else NO_JOINTS
    failed_N = np.array([reason is not None for reason in problem], np.bool_)
    return Placement(np.where(failed_N[:, None], np.nan, translation_N3), problem)


def _start(
    points_NJ3: Floats, rays_NJ2: Floats, weights_NJ: Floats, focal_N12: Floats, nearest_N: Floats
) -> Floats:
    """Returns the better of two translations, in closed form each.

    One solves (X + t) / (Z + t_z) = ray as it stands: X + t - ray (Z + t_z) = 0 is linear in t. A ray that points
    far astray would pull that to the camera, or behind it; the other one goes by the medians of size and place.
    """
    offsets_NJ2 = rays_NJ2 * points_NJ3[..., 2:] - points_NJ3[..., :2]
    solved_N3 = _least_squares(weights_NJ[..., None] * focal_N12**2, rays_NJ2, offsets_NJ2)
    used_NJ = weights_NJ > 0
    depth_N = np.fmax(_size(points_NJ3[..., :2], used_NJ) / _size(rays_NJ2, used_NJ), nearest_N)
    centre_N2 = _medians(rays_NJ2 * depth_N[:, None, None] - points_NJ3[..., :2], used_NJ)
    by_size_N3 = np.concatenate([centre_N2, depth_N[:, None]], axis=1)
    costs = [
        (weights_NJ * _distances(points_NJ3 + start_N3[:, None], rays_NJ2, focal_N12)).sum(axis=1)
        for start_N3 in (solved_N3, by_size_N3)
    ]
    better_N = (solved_N3[:, 2] > nearest_N) & ~(costs[1] < costs[0])
    return np.where(better_N[:, None], solved_N3, by_size_N3)


def _refined(
    translation_N3: Floats,
    points_NJ3: Floats,
    rays_NJ2: Floats,
    weights_NJ: Floats,
    focal_N12: Floats,
    nearest_N: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns the translations after all steps, and whether the joints determine them (N,)."""
    used_NJ = weights_NJ > 0
    sure_N = np.zeros(len(points_NJ3), np.bool_)
    for step in range(DISTANCE_STEPS + REDESCENDING_STEPS):
        moved_NJ3 = points_NJ3 + translation_N3[:, None]
        depth_NJ1 = moved_NJ3[..., 2:]
        found_NJ2 = moved_NJ3[..., :2] / depth_NJ1
        distance_NJ = _distances(moved_NJ3, rays_NJ2, focal_N12)
        if step < DISTANCE_STEPS:
            trust_NJ = 1 / np.maximum(distance_NJ, FINEST_PX)
        else:
            limit_N1 = np.maximum(TUNING * _median(distance_NJ, used_NJ), FINEST_PX)[:, None]
            trust_NJ = (limit_N1**2 / (limit_N1**2 + distance_NJ**2)) ** 2
        # A step's equations are those of the start, with what is projected now in place of what was seen.
        weights_NJ2 = (weights_NJ * trust_NJ)[..., None] * (focal_N12 / depth_NJ1) ** 2
        step_N3 = _least_squares(weights_NJ2, found_NJ2, depth_NJ1 * (rays_NJ2 - found_NJ2))
        half_way_N = (nearest_N - translation_N3[:, 2]) / 2
        step_N3[:, 2] = np.maximum(step_N3[:, 2], half_way_N)
        translation_N3 = translation_N3 + step_N3
        uncertainty_N = 1 / (np.sqrt(_spread(weights_NJ2, found_NJ2)) * translation_N3[:, 2])
        settled_N = np.abs(step_N3[:, 2]) < LARGEST_LAST_STEP * translation_N3[:, 2]
        sure_N = settled_N & (uncertainty_N < LARGEST_UNCERTAINTY)
    return _as_large_as_seen(
        translation_N3, points_NJ3, rays_NJ2, (weights_NJ * trust_NJ)[..., None] * focal_N12**2, nearest_N
    ), sure_N


def _as_large_as_seen(
    translation_N3: Floats, points_NJ3: Floats, rays_NJ2: Floats, weights_NJ2: Floats, nearest_N: Floats
) -> Floats:
    """Returns the depth at which both spreads in the image are the same, and the best x and y there."""
    seen_N = _spread(weights_NJ2, rays_NJ2)
    for _ in range(SIZE_STEPS):
        moved_NJ3 = points_NJ3 + translation_N3[:, None]
        found_N = _spread(weights_NJ2, moved_NJ3[..., :2] / moved_NJ3[..., 2:])
        half_way_N = (translation_N3[:, 2] + nearest_N) / 2
        depth_N = np.maximum(translation_N3[:, 2] * np.sqrt(found_N / seen_N), half_way_N)
        depth_NJ1 = points_NJ3[..., 2:] + depth_N[:, None, None]
        centre_N2 = _mean(weights_NJ2 / depth_NJ1**2, rays_NJ2 * depth_NJ1 - points_NJ3[..., :2])
        translation_N3 = np.concatenate([centre_N2, depth_N[:, None]], axis=1)
    return translation_N3


def _least_squares(weights_NJ2: Floats, ratios_NJ2: Floats, offsets_NJ2: Floats) -> Floats:
    """Returns the t (N, 3) of the least weighted squares of (t_x, t_y) - ratios t_z - offsets."""
    ratio_N2, offset_N2 = _mean(weights_NJ2, ratios_NJ2), _mean(weights_NJ2, offsets_NJ2)
    mixed_NJ2 = weights_NJ2 * (ratios_NJ2 - ratio_N2[:, None]) * (offsets_NJ2 - offset_N2[:, None])
    depth_N1 = -(mixed_NJ2.sum(axis=(1, 2)) / _spread(weights_NJ2, ratios_NJ2))[:, None]
    return np.concatenate([offset_N2 + ratio_N2 * depth_N1, depth_N1], axis=1)


def _mean(weights_NJ2: Floats, values_NJ2: Floats) -> Floats:
    mean_N2: Floats = (weights_NJ2 * values_NJ2).sum(axis=1) / weights_NJ2.sum(axis=1)
    return mean_N2


def _spread(weights_NJ2: Floats, values_NJ2: Floats) -> Floats:
    """Returns the weighted sum of squares (N,) about the mean."""
    centred_NJ2 = values_NJ2 - _mean(weights_NJ2, values_NJ2)[:, None]
    spread_N: Floats = (weights_NJ2 * centred_NJ2**2).sum(axis=(1, 2))
    return spread_N


def _distances(moved_NJ3: Floats, rays_NJ2: Floats, focal_N12: Floats) -> Floats:
    """Returns how far (N, J) points are from where they are seen, in pixels."""
    off_NJ2 = focal_N12 * (moved_NJ3[..., :2] / moved_NJ3[..., 2:] - rays_NJ2)
    return np.asarray(np.linalg.norm(off_NJ2, axis=2))


def _size(values_NJ2: Floats, used_NJ: NDArray[np.bool_]) -> Floats:
    """Returns the median distance (N,) from the median point."""
    away_NJ2 = values_NJ2 - _medians(values_NJ2, used_NJ)[:, None]
    return _median(np.linalg.norm(away_NJ2, axis=2), used_NJ)


def _medians(values_NJ2: Floats, used_NJ: NDArray[np.bool_]) -> Floats:
    return np.stack([_median(values_NJ2[..., axis], used_NJ) for axis in range(2)], axis=1)


def _median(values_NJ: Floats, used_NJ: NDArray[np.bool_]) -> Floats:
    """Returns the lower median (N,) of each row's used values."""
    ordered_NJ = np.sort(np.where(used_NJ, values_NJ, np.inf), axis=1)
    middle_N = np.maximum(used_NJ.sum(axis=1) - 1, 0) // 2
    return np.asarray(ordered_NJ[np.arange(len(ordered_NJ)), middle_N])
