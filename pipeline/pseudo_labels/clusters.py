"""Clusters of finger poses: k-means on MANO's axis-angle vectors, as those of right hands."""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 30
FITTED_ON = 20_000  # hands at most

Floats = NDArray[np.float32]


def as_right(hand_pose: Floats, is_left: NDArray[np.bool_]) -> Floats:
    """Returns poses (N, 45) with left hands' mirrored."""
    turned = hand_pose.reshape(-1, 15, 3).copy()
    turned[is_left, :, 1:] *= -1
    return turned.reshape(-1, 45)


def fit(poses: Floats, count: int, seed: int) -> Floats:
    """Returns at most `count` centres (K, 45) of poses (N, 45); N > 0.

    Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii, 2007); a function of its arguments.
    """
    rng = np.random.default_rng(seed)
    centres = poses[[rng.integers(len(poses))]]
    nearest = ((poses - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count and nearest.sum() > 0:
        chosen = poses[rng.choice(len(poses), p=nearest / nearest.sum())]
        centres = np.concatenate([centres, chosen[None]])
        nearest = np.minimum(nearest, ((poses - chosen) ** 2).sum(axis=1))
    for _ in range(ROUNDS):
        member = assign(poses, centres)
        moved = centres.copy()
        for number in np.unique(member):
            moved[number] = poses[member == number].mean(axis=0)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def assign(poses: Floats, centres: Floats) -> NDArray[np.int16]:
    """Returns the number of the nearest centre of each pose."""
    distance = (centres**2).sum(axis=1) - 2 * poses @ centres.T
    nearest: NDArray[np.int16] = distance.argmin(axis=1).astype(np.int16)
    return nearest
