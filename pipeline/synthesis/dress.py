"""What is drawn of a hand: its skin or a glove, the forearm that it sits on, and a sleeve."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.rasterize import vertex_normals
from pipeline.synthesis.hands import HandKit, PosedHand
from pipeline.synthesis.skin import skin_colours, skin_texture
from pipeline.synthesis.surfaces import Surface, unit
from pipeline.synthesis.textures import Image, pattern, random_colour

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

TEXTURES_PER_METRE = 12.0
FOREARM_STEPS_M = np.array([0.0, 0.008, 0.02, 0.035, 0.06, 0.09, 0.13, 0.18, 0.24, 0.31, 0.40, 0.60])


def dress(rng: np.random.Generator, kit: HandKit, hand: PosedHand) -> list[Surface]:
    """The hand and its forearm as one skin or glove, half of the time with a sleeve; wrist at 0."""
    loop = hand.vertices[kit.wrist_loop]
    rings = _forearm(loop, hand.joints[[5, 9, 13, 17]].mean(axis=0), rng.normal(0, 0.25, 3))
    colours, texture = (
        _glove(rng, kit) if rng.random() < 0.07 else (skin_colours(rng, kit), skin_texture(rng))
    )
    uv = np.stack([kit.rest @ kit.along, kit.rest @ np.cross(kit.along, kit.palm)], axis=1)
    along_arm = np.stack([-FOREARM_STEPS_M[1:], 0 * FOREARM_STEPS_M[1:]], axis=1)
    arm_uv = uv[kit.wrist_loop][None] + along_arm[:, None]
    fade = np.minimum(FOREARM_STEPS_M[1:] / 0.1, 1)[:, None, None]
    arm_colours = colours[kit.wrist_loop] * (1 - fade) + colours.mean(axis=0) * fade

    arm_count = rings.shape[0] * rings.shape[1]
    start = len(hand.vertices)
    ring_indices = np.concatenate(
        [kit.wrist_loop[None], start + np.arange(arm_count).reshape(rings.shape[:2])]
    )
    vertices = np.concatenate([hand.vertices, rings.reshape(-1, 3)])
    tunnel = _tunnel_faces(ring_indices)
    faces = np.concatenate([hand.faces, tunnel[:, [0, 2, 1]] if hand.side == "left" else tunnel])
    skin = Surface(
        vertices=vertices,
        normals=vertex_normals(vertices, faces),
        faces=faces,
        uv=np.concatenate([uv, arm_uv.reshape(-1, 2)]) * TEXTURES_PER_METRE,
        colours=np.concatenate([colours, arm_colours.reshape(-1, 3)]),
        texture=texture,
        specular=float(rng.uniform(0.02, 0.16)),
        shininess=float(rng.uniform(6, 25)),
        wrap=(0.35, 0.18, 0.12),
    )
    return [skin, _sleeve(rng, rings)] if rng.random() < 0.5 else [skin]


def _glove(rng: np.random.Generator, kit: HandKit) -> tuple[Floats, Image]:
    colours: Floats = np.tile(random_colour(rng), (len(kit.rest), 1))
    return colours, 0.5 + 0.5 * pattern(rng)


def _forearm(loop: Floats, knuckles: Floats, bend: Floats) -> Floats:
    """(K, L, 3) rings that continue the wrist's border: turned by bend, flattening, widening to the elbow.

    knuckles (3,) tells the border's two sides apart; bend (3,) is a rotation vector.
    """
    centre = loop.mean(axis=0)
    spread = loop - centre
    normal = unit(np.cross(spread, np.roll(spread, -1, axis=0)).sum(axis=0))
    normal *= np.sign((centre - knuckles) @ normal)
    # A forearm that comes straight at the lens would hide everything: the wrist bends it aside.
    goal = Rotation.from_rotvec(bend).apply(normal)
    goal[2] = max(goal[2], -0.5)
    goal = unit(goal)
    turn = unit(np.cross(normal, goal)) * np.arccos(np.clip(normal @ goal, -1, 1))

    progress = np.minimum(FOREARM_STEPS_M / 0.03, 1)[:, None]
    turns = Rotation.from_rotvec(turn * progress)
    path = centre + np.cumsum(turns.apply(normal)[1:] * np.diff(FOREARM_STEPS_M)[:, None], axis=0)
    level = spread - progress[1:, None] * (spread @ normal)[:, None] * normal
    wide = 1 + 1.9 * np.minimum(FOREARM_STEPS_M[1:, None, None], 0.25)
    rings: Floats = path[:, None] + wide * np.einsum("kij,klj->kli", turns.as_matrix()[1:], level)
    return rings


def _tunnel_faces(rings: Ints) -> Ints:
    """Faces between consecutive closed rings of vertex indices (K, L), facing outwards as the hand's do."""
    following = np.roll(rings, -1, axis=1)
    near, far = rings[:-1], rings[1:]
    lower = np.stack([following[:-1], near, far], axis=-1)
    upper = np.stack([following[:-1], far, following[1:]], axis=-1)
    return np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)])


def _sleeve(rng: np.random.Generator, rings: Floats) -> Surface:
    """Cloth around the forearm from somewhere behind the wrist, its hem turned in."""
    first = int(rng.integers(2, 7))
    worn = rings[first:]
    centres = worn.mean(axis=1, keepdims=True)
    outwards = worn - centres
    reach = np.linalg.norm(outwards, axis=-1, keepdims=True)
    folds = 1 + 0.04 * rng.normal(size=(len(worn), 1, 1))
    cloth = centres + outwards * (1 + rng.uniform(0.004, 0.02) / reach) * folds
    cloth = np.concatenate([worn[:1], cloth])
    rows, columns = cloth.shape[:2]
    vertices = cloth.reshape(-1, 3)
    faces = _tunnel_faces(np.arange(rows * columns).reshape(rows, columns))
    around, along = np.meshgrid(np.linspace(0, 2, columns), np.arange(rows) * 0.4)
    return Surface(
        vertices=vertices,
        normals=vertex_normals(vertices, faces),
        faces=faces,
        uv=np.stack([around, along], axis=-1).reshape(-1, 2),
        colours=np.ones_like(vertices),
        texture=pattern(rng),
        specular=0.0,
    )
