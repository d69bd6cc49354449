"""Where things stand: the camera, the hand in its picture, an occluder that hides as much as asked."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.synthesis.hands import PosedHand
from pipeline.synthesis.objects import random_object
from pipeline.synthesis.surfaces import Surface, random_rotation, unit

Floats = NDArray[np.floating]

NEAREST_M = 0.08  # nothing that is placed on purpose comes nearer to the camera
TRIES = 12
CLOSE_ENOUGH = 0.05  # a try within this of the wanted hidden share ends the search


def random_camera(rng: np.random.Generator, size: int) -> Floats:
    """(fx, fy, cx, cy) in pixels: wide to long lens, square pixels but for a percent, nearly centred."""
    focal = rng.uniform(0.8, 2.0) * size
    centre = (size - 1) / 2 + rng.normal(0, 0.02 * size, 2)
    return np.array([focal, focal * rng.normal(1, 0.003), *centre])


def project(points: Floats, camera: Floats) -> Floats:
    """(N, 3) camera-space metres to (N, 2) pixels."""
    return camera[:2] * points[:, :2] / points[:, 2:] + camera[2:]


def place_hand(rng: np.random.Generator, vertices: Floats, camera: Floats, size: int) -> Floats:
    """The wrist's translation that makes the hand span 35 to 85 % of the picture, anywhere in it.

    A hand that points at the camera is kept far enough away to stay in front of it, and spans less.
    """
    span = rng.uniform(0.35, 0.85) * size
    slack = 0.55 * (size - span)
    goal = (size - 1) / 2 + rng.uniform(-slack, slack, 2)
    nearest = NEAREST_M - vertices[:, 2].min()
    depth = max(nearest, 0.19 * camera[0] / span)
    translation = np.array([0.0, 0.0, depth])
    for _ in range(6):
        points = project(vertices + translation, camera)
        low, high = points.min(axis=0), points.max(axis=0)
        translation[2] = max(nearest, translation[2] * float((high - low).max()) / span)
        translation[:2] += (goal - (low + high) / 2) * translation[2] / camera[:2]
    return translation


def hidden_by(points: Floats, triangles: Floats, tolerance_m: float = 2e-3) -> NDArray[np.bool_]:
    """Which of (N, 3) camera-space points lie behind one of the (T, 3, 3) triangles, seen from the origin."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    # Signed volumes of the ray with each edge: all of one sign, and the ray goes through the triangle.
    volumes = np.stack([points @ np.cross(u, v).T for u, v in ((b, c), (c, a), (a, b))])
    through = (volumes > 0).all(axis=0) | (volumes < 0).all(axis=0)
    total = volumes.sum(axis=0)
    hit = np.einsum("ij,ij->i", a, np.cross(b, c)) / np.where(total == 0, np.inf, total)
    reach = 1 - tolerance_m / np.linalg.norm(points, axis=1, keepdims=True)
    hides: NDArray[np.bool_] = (through & (hit > 0) & (hit < reach)).any(axis=1)
    return hides


def place_occluder(
    rng: np.random.Generator, joints: Floats, wanted_share: float, propose: Callable[[], list[Surface]]
) -> list[Surface]:
    """Of up to TRIES proposals, the one whose share of hidden joints is nearest to the wanted one."""
    best: list[Surface] = []
    best_miss = np.inf
    for _ in range(TRIES):
        surfaces = propose()
        triangles = np.concatenate([surface.triangles() for surface in surfaces])
        if triangles[..., 2].min() < NEAREST_M / 2:
            continue
        miss = abs(float(hidden_by(joints, triangles).mean()) - wanted_share) + 0.01 * rng.random()
        if miss < best_miss:
            best, best_miss = surfaces, miss
        if miss < CLOSE_ENOUGH:
            break
    return best


def held_or_in_front(rng: np.random.Generator, hand: PosedHand, translation: Floats) -> list[Surface]:
    """Propose an object in the palm, between two fingers, or between the camera and a joint."""
    joints = hand.joints + translation
    thing = random_object(rng)
    manner = rng.choice(["palm", "pinch", "in front"], p=[0.35, 0.2, 0.45])
    if manner == "palm":
        across, along = unit(joints[5] - joints[17]), unit(joints[9] - joints[0])
        palm = np.cross(along, across) if hand.side == "left" else np.cross(across, along)
        radius = float(np.abs(thing.vertices[:, [0, 2]]).max())
        turn = random_rotation(rng) if rng.random() < 0.2 else _y_axis_to(across + rng.normal(0, 0.3, 3), rng)
        centre = (
            joints[9]
            + palm * (radius + 0.012)
            + along * rng.uniform(-0.02, 0.03)
            + across * rng.normal(0, 0.02)
        )
    elif manner == "pinch":
        fingers = rng.choice([4, 8, 12, 16, 20, 7, 11], 2, replace=False)
        centre = joints[fingers].mean(axis=0) + rng.normal(0, 0.01, 3)
        turn = random_rotation(rng)
    else:
        joint = joints[rng.integers(21)]
        centre = joint * rng.uniform(0.55, 0.95) + rng.normal(0, 0.02, 3) * (1, 1, 0)
        turn = random_rotation(rng)
    return [thing.moved(turn, centre)]


def _y_axis_to(direction: Floats, rng: np.random.Generator) -> Floats:
    """A rotation that lays an object's long axis along the direction, spun at random about it."""
    y = unit(direction)
    x = unit(np.cross(y, rng.normal(size=3)))
    return np.stack([x, y, np.cross(x, y)], axis=1)
