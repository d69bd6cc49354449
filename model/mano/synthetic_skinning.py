"""How the procedural hand follows its bones: skinning weights, pose correctives, and the joint regressor."""

from functools import cache
from typing import Final

import numpy as np
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from model.mano.joints import MANO_PARENTS
from model.mano.synthetic_skeleton import MM, Array, Finger, fingers, joint_axes, rest_joints
from model.mano.synthetic_surface import Indices, skin

# A joint bends the skin over a fan of this half angle around it (degrees, seen along its axis): sharper over the
# knuckle, wider in the crease, where a narrow fan would fold the skin into itself.
_DORSAL_FAN: Final = 56.0
_PALMAR_FAN: Final = 78.0
_SMOOTHING_STEPS: Final = 6
_MAX_JOINTS: Final = 4  # that pull on one vertex


def _smooth(share: Array) -> Array:
    """0 to 1 with soft ends, half way between a straight ramp and a smoothstep."""
    share = np.clip(share, 0, 1)
    return np.asarray(0.5 * share + 0.5 * share**2 * (3 - 2 * share))


def _beyond(finger: Finger, joint: int, s: Array, radial: Array, dorsal: Array) -> Array:
    """How far a vertex lies beyond a joint of the finger: 0 on the near bone, 1 on the far one."""
    size = 0.75 * np.minimum(np.abs(radial), 9 * MM) if joint else 0.5 * np.minimum(np.abs(radial), 10 * MM)
    lever = np.sqrt(dorsal**2 + size**2 + (3 * MM) ** 2)
    upper = 1 / (1 + np.exp(-dorsal / (2.5 * MM)))
    fan = np.radians(upper * _DORSAL_FAN + (1 - upper) * _PALMAR_FAN)
    angle = np.arctan2(s - finger.stations[joint], lever)
    return _smooth(0.5 + 0.5 * angle / fan)


def _membership(points: Array) -> dict[str, Array]:
    """The share (N,) of each finger in every vertex: whole on its own tube, blended in the palm and the webs."""
    row = ("index", "middle", "ring", "little")
    closeness = np.stack(
        [np.exp(-((fingers()[name].coordinates(points)[1] / (10 * MM)) ** 2)) for name in row]
    )
    shares = dict(zip(row, closeness / closeness.sum(axis=0), strict=True))
    s, radial, dorsal = fingers()["thumb"].coordinates(points)
    aside = np.hypot(radial, dorsal) - np.clip(s, 0, 30 * MM) * 0.15
    shares["thumb"] = _smooth((34 * MM - aside) / (24 * MM))
    for name, rings in skin().rings.items():
        tube = np.concatenate([rings[1:].ravel(), [skin().tips[name]]])
        for other in shares:
            shares[other][tube] = 1.0 if other == name else 0.0
    return shares


@cache
def skinning_weights() -> Array:
    """(778, 16): rows sum to 1, at most four joints a vertex."""
    points = skin().vertices
    weights = np.zeros((len(points), 16))
    for name, share in _membership(points).items():
        finger = fingers()[name]
        s, radial, dorsal = finger.coordinates(points)
        passed = [_beyond(finger, joint, s, radial, dorsal) for joint in range(3)]
        if name == "thumb":
            # The base of the thumb is buried in muscle that moves with it by degrees.
            passed[0] = np.where(share < 1, _smooth((s + 14 * MM) / (40 * MM)), 1.0)
            passed[0] = np.maximum(passed[0], passed[1])
        passed[0] = passed[0] * share
        first = finger.first_joint
        weights[:, first] = passed[0] * (1 - passed[1])
        weights[:, first + 1] = passed[0] * passed[1] * (1 - passed[2])
        weights[:, first + 2] = passed[0] * passed[1] * passed[2]
    # A vertex that the thumb and the index both want keeps their ratio.
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
    weights[:, 0] = 1 - weights.sum(axis=1)
    # The fans of the fingers' own joints are smooth already; webs and palm are evened out.
    rate = np.full((len(points), 1), 0.5)
    for name, rings in skin().rings.items():
        rate[rings[4 if name == "thumb" else 2 :].ravel()] = 0.0
    rate[list(skin().tips.values())] = 0.0
    for _ in range(_SMOOTHING_STEPS):
        weights = weights + rate * (_neighbour_mean(weights) - weights)
    weights[skin().wrist] = np.eye(16)[0]
    weights[np.sort(weights, axis=1)[:, -_MAX_JOINTS, None] > weights] = 0
    weights[weights < 0.004] = 0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _neighbour_mean(values: Array) -> Array:
    faces = skin().faces
    pairs: Indices = np.unique(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=0)
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    total = np.zeros_like(values)
    np.add.at(total, pairs[:, 0], values[pairs[:, 1]])
    return np.asarray(total / np.bincount(pairs[:, 0])[:, None])


def _moving_share(joint: int) -> Array:
    """The share (N,) of every vertex that turns with a joint: its own weight and those of all joints beyond it."""
    moving = [joint]
    for other in range(joint + 1, 16):
        if MANO_PARENTS[other] in moving:
            moving.append(other)
    return np.asarray(skinning_weights()[:, moving].sum(axis=1))


def pose_correctives() -> Array:
    """MANO's posedirs (778, 3, 135): they give bent joints back the volume that linear blending takes.

    For each joint, over the turns it can take, the wanted position of a vertex is its rest position turned by its
    share of the rotation (as dual quaternions do around a single joint: knuckles stay round, nothing collapses); what
    the linear blend lacks is fitted by least squares in the features R - I.
    """
    points, posedirs = skin().vertices, np.zeros((len(skin().vertices), 3, 135))
    for joint in range(1, 16):
        share = part = _moving_share(joint)
        if MANO_PARENTS[joint] == 0:
            # In a web two fingers share a vertex and mostly bend together: each brings its part of what both lack.
            share = 1 - skinning_weights()[:, 0]
            part = part / np.maximum(share, 1e-9)
        near = np.flatnonzero((share > 0.01) & (share < 0.99) & (part > 0.01))
        offset = points[near] - rest_joints()[joint]
        turns = _sample_turns(joint)
        matrices = turns.as_matrix()
        partial = Rotation.from_rotvec((turns.as_rotvec()[:, None] * share[near, None]).reshape(-1, 3))
        wanted = (partial.as_matrix().reshape(len(turns), len(near), 3, 3) @ offset[..., None])[..., 0]
        blend = (1 - share[near, None, None]) * np.eye(3) + share[near, None, None] * matrices[:, None]
        missing = np.linalg.solve(blend, wanted[..., None])[..., 0] - offset
        if MANO_PARENTS[joint] == 0:
            missing = missing * part[near, None]
        features = (matrices - np.eye(3)).reshape(len(turns), 9)
        gram = features.T @ features + 0.05 * np.eye(9)
        fitted = np.linalg.solve(gram, features.T @ missing.reshape(len(turns), -1))
        posedirs[near, :, 9 * (joint - 1) : 9 * joint] = fitted.reshape(9, len(near), 3).transpose(1, 2, 0)
    return posedirs


def _sample_turns(joint: int) -> Rotation:
    """The turns of one joint over which its correctives are fitted: bends of all sizes, spread and twisted a little."""
    flexion, spread, twist = joint_axes()[joint - 1]
    bends = np.radians([-20, 0, 20, 40, 60, 80, 100, 115])
    return Rotation.concatenate(
        [
            Rotation.from_rotvec(aside * spread)
            * Rotation.from_rotvec(bend * flexion)
            * Rotation.from_rotvec(turn * twist)
            for bend in bends
            for aside in np.radians([-18, 0, 18])
            for turn in np.radians([-15, 0, 15])
        ]
    )


def joint_regressor(shapedirs: Array, joint_shifts: Array) -> Array:
    """MANO's J_regressor (16, 778): averages of the skin around each joint that give it at rest and in other shapes.

    `shapedirs` (778, 3, 10) move the skin, `joint_shifts` (16, 3, 10) the joints. The weights are those nearest to an
    even mean over the surrounding vertices that are not negative and meet the joint.
    """
    points = skin().vertices
    regressor = np.zeros((16, len(points)))
    for joint, place in enumerate(rest_joints()):
        distance = np.linalg.norm(points - place, axis=1)
        near = np.argsort(np.round(distance, 7), kind="stable")[: 64 if joint == 0 else 48]
        rows = [
            (points[near] - place).T / MM,
            shapedirs[near].reshape(len(near), -1).T / MM,
            np.ones((1, len(near))),
        ]
        wanted = [np.zeros(3), joint_shifts[joint].ravel() / MM, np.ones(1)]
        importance = [30.0 * np.ones(3), 1.0 * np.ones(30), 3000.0 * np.ones(1)]
        even = 1 / len(near)
        left = np.concatenate([np.concatenate(rows) * np.concatenate(importance)[:, None], np.eye(len(near))])
        right = np.concatenate(
            [np.concatenate(wanted) * np.concatenate(importance), np.full(len(near), even)]
        )
        weights, _ = nnls(left, right)
        regressor[joint, near] = weights / weights.sum()
    return regressor
