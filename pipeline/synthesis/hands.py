"""A hand model, posed at random and turned towards the camera."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.asset import HandModel, Side
from model.mano.joints import TIPS_IN_SIMPLE
from model.mano.layer import ManoLayer, wrist_relative
from model.mano.poses import random_pose
from pipeline.rasterize import vertex_normals
from pipeline.synthesis.surfaces import random_rotation, unit

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PosedHand:
    """A hand in camera axes, its wrist at the origin; parameters as in the annotation contract.

    The parameters of a left hand are those of the mirrored right hand, axis-angle (x, -y, -z).
    """

    side: Side
    global_orient: Floats  # (3,) axis-angle
    hand_pose: Floats  # (45,) axis-angle, absolute
    betas: Floats  # (10,)
    joints: Floats  # (21, 3) metres
    vertices: Floats  # (778, 3) metres
    faces: Ints  # (1538, 3)


class HandKit:
    """A right-hand model and what posing and dressing ask of it again and again.

    rest (778, 3), rest_normals, rest_joints (21, 3): the flat hand, wrist at 0. along, palm: unit directions of
    its fingers, and of what its palm faces. wrist_loop: the vertices around its open wrist, in order.
    """

    def __init__(self, hand_model: HandModel) -> None:
        assert hand_model.side == "right", "left hands are mirrored right ones"
        self.hand_model = hand_model
        # In double precision, and hand by hand: a label must not depend on who shares its batch.
        self._layer = ManoLayer(hand_model, dtype=torch.float64)
        self.rest, self.rest_joints = self._pose(np.zeros((16, 3)), np.zeros(10))
        self.along, self.palm = _hand_directions(self.rest_joints)
        self.wrist_loop = _border(hand_model.faces)
        self.rest_normals = vertex_normals(self.rest, hand_model.faces)
        nearest = np.linalg.norm(self.rest[None] - self.rest_joints[:, None], axis=-1).min(axis=1)
        nearest[list(TIPS_IN_SIMPLE)] = nearest[[tip - 1 for tip in TIPS_IN_SIMPLE]]
        # (21,) how deep below its hand's surface a joint may lie and still count as seen. A finger that lies on
        # another one has its front three radii before the other's axis.
        self.flesh_m = 2.3 * nearest

    def random_hand(self, rng: np.random.Generator, side: Side) -> PosedHand:
        """A random pose, shape and orientation; most forearms come from below or from the sides."""
        orientation = self._random_orientation(rng)
        hand_pose = np.asarray(random_pose(rng, 1), np.float64).reshape(45)
        betas = np.clip(rng.normal(size=10), -2.5, 2.5)
        global_orient = Rotation.from_matrix(orientation).as_rotvec()
        return self.posed(global_orient, hand_pose, betas, side)

    def posed(self, global_orient: Floats, hand_pose: Floats, betas: Floats, side: Side) -> PosedHand:
        """Pose by the parameters of the right hand; a left hand is its mirror image."""
        vertices, joints = self._pose(np.concatenate([global_orient, hand_pose]).reshape(16, 3), betas)
        faces = self.hand_model.faces
        if side == "left":
            flip = np.array([-1.0, 1.0, 1.0])
            vertices, joints, faces = vertices * flip, joints * flip, faces[:, [0, 2, 1]]
            global_orient = global_orient * -flip
            hand_pose = (hand_pose.reshape(15, 3) * -flip).reshape(45)
        return PosedHand(side, global_orient, hand_pose, betas, joints, vertices, faces)

    def _pose(self, rotation_vectors: Floats, betas: Floats) -> tuple[Floats, Floats]:
        rotations = torch.from_numpy(Rotation.from_rotvec(rotation_vectors).as_matrix())
        with torch.inference_mode():
            vertices, joints = wrist_relative(self._layer(rotations[None], torch.from_numpy(betas)[None]))
        return vertices[0].numpy(), joints[0].numpy()

    def _random_orientation(self, rng: np.random.Generator) -> Floats:
        """A rotation of the right hand: a third uniform, the rest near the picture plane, mostly upwards."""
        if rng.random() < 0.35:
            return random_rotation(rng)
        turn, tilt = rng.normal(0, 1.0), rng.normal(0, 0.45)
        along = np.array([np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt)])
        roll = rng.uniform(0, 2 * np.pi)
        start = unit(np.cross(along, (0.3, 0.2, 0.9)))
        palm = np.cos(roll) * start + np.sin(roll) * np.cross(along, start)
        target = np.stack([along, palm, np.cross(along, palm)], axis=1)
        source = np.stack([self.along, self.palm, np.cross(self.along, self.palm)], axis=1)
        rotation: Floats = target @ source.T
        return rotation


def _hand_directions(joints: Floats) -> tuple[Floats, Floats]:
    """Of a right hand: the unit direction of its fingers, and the one its palm faces."""
    along = unit(joints[9] - joints[0])
    palm = np.cross(joints[5] - joints[0], joints[17] - joints[0])
    return along, unit(palm - (palm @ along) * along)


def _border(faces: Ints) -> Ints:
    """The vertices of a mesh's longest open border, in order."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    known = {(int(a), int(b)) for a, b in edges}
    following = {a: b for a, b in sorted(known) if (b, a) not in known}
    loops = []
    while following:
        start = vertex = min(following)
        loop = []
        while vertex in following:
            loop.append(vertex)
            vertex = following.pop(vertex)
        assert vertex == start, "the wrist's border is not a closed loop"
        loops.append(loop)
    assert loops, "the hand has no open wrist"
    return np.array(max(loops, key=len))
