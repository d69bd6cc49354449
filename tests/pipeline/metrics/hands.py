"""Hands to measure: true ones, and predictions that are wrong in a known way."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from model.mano.joints import FINGERTIP_VERTICES, SIMPLE_FROM_HO3D
from model.mano.synthetic import synthetic_hand


class Hands(NamedTuple):
    """Joints (N, 21, 3) and vertices (N, 778, 3), float64, metres."""

    joints: Tensor
    vertices: Tensor

    def moved(self, turn: NDArray[np.float64], shift: NDArray[np.float64], scale: float = 1.0) -> "Hands":
        matrix, offset = torch.from_numpy(scale * turn), torch.from_numpy(shift)
        return Hands(self.joints @ matrix.T + offset, self.vertices @ matrix.T + offset)


def true_hands(count: int, *, seed: int = 0) -> Hands:
    """The procedural hand at rest, half a metre before the camera, turned and bent a little in many ways."""
    rng = np.random.default_rng(seed)
    hand = synthetic_hand()
    tips = hand.v_template[list(FINGERTIP_VERTICES["smplx"])]
    joints = np.concatenate((hand.J_regressor @ hand.v_template, tips))[list(SIMPLE_FROM_HO3D)]
    points = np.concatenate((joints, hand.v_template))
    hands = [warped(points, rng, 0.01) @ Rotation.random(rng=rng).as_matrix() for _ in range(count)]
    return split(np.stack(hands) + rng.uniform([-0.2, -0.2, 0.4], [0.2, 0.2, 0.8], (count, 1, 3)))


def predicted(truth: Hands, *, error_m: float = 0.01, seed: int = 1) -> Hands:
    """The same hands, wrong by about `error_m`: bent otherwise, noisy, turned, moved and of another size."""
    rng = np.random.default_rng(seed)
    hands = []
    for points in torch.cat((truth.joints, truth.vertices), dim=1).numpy():
        centre = points.mean(0)
        turn = Rotation.from_rotvec(rng.normal(0, 3 * error_m, 3)).as_matrix()
        bent = warped(points - centre, rng, error_m) + rng.normal(0, 0.2 * error_m, points.shape)
        hands.append(rng.uniform(0.9, 1.1) * bent @ turn + centre + rng.normal(0, error_m, 3))
    return split(np.stack(hands))


def warped(points: NDArray[np.float64], rng: np.random.Generator, size_m: float) -> NDArray[np.float64]:
    waves = rng.normal(0, 20, (3, 3))
    return points + size_m * np.sin(points @ waves + rng.uniform(0, 6, 3))


def split(points: NDArray[np.float64]) -> Hands:
    both = torch.from_numpy(np.ascontiguousarray(points))
    return Hands(both[:, :21], both[:, 21:])
