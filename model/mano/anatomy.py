"""What hands can and cannot do, taken from a hand model: how far joints turn, how long bones are.

Right hands, MANO's rest frame, angles in radians. N hands, 15 finger joints in MANO's order (1 to 15).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.asset import HandModel
from model.mano.joints import FIRST_TO_TIP, MANO_FROM_SIMPLE, MANO_PARENTS
from model.mano.poses import POSE_LIMITS
from model.mano.synthetic_skeleton import joint_axes

Floats = NDArray[np.float64]

_ROUNDS: Final = (
    6  # of turning each of the three angles to its best: the distance has settled to 0.01 rad by then
)


@dataclass(frozen=True)
class Anatomy:
    """Of one hand model.

    axes: of flexion, spread and twist of each finger joint, (15, 3, 3), rows orthonormal. bone_lengths: of the mean
    hand, and bone_deviations: their standard deviation over the hands that the betas make, both (15,) in metres; bone
    i ends in MANO's joint i + 1. Finger tips are left out: they lie on the skin, which moves with the pose.
    """

    axes: Floats
    bone_lengths: Floats
    bone_deviations: Floats


def anatomy_of(hand_model: HandModel) -> Anatomy:
    """Returns the anatomy of a right hand's model.

    The axes of spread and twist follow the model's own fingers at rest; which way a finger bends is the procedural
    hand's, whose rest frame is MANO's. Betas count as independent, of standard deviation 1, as MANO's are.
    """
    regressor = hand_model.J_regressor.astype(np.float64)
    joints = regressor @ hand_model.v_template
    by_betas = np.einsum("jv,vcb->jcb", regressor, hand_model.shapedirs)
    parents = np.array(MANO_PARENTS[1:])
    bones, bones_by_betas = joints[1:] - joints[parents], by_betas[1:] - by_betas[parents]
    lengths = np.linalg.norm(bones, axis=1)
    by_length = np.einsum("bc,bcn->bn", bones / lengths[:, None], bones_by_betas)

    tips = hand_model.v_template[list(hand_model.fingertip_vertices)].astype(np.float64)
    axes = np.empty((15, 3, 3))
    for first, tip in FIRST_TO_TIP:
        along = tips[tip] - joints[first]
        along /= np.linalg.norm(along)
        radial = joint_axes()[first - 1, 0]
        radial = radial - (radial @ along) * along
        radial /= np.linalg.norm(radial)
        axes[first - 1 : first + 2] = radial, np.cross(along, radial), along
    return Anatomy(axes, lengths, np.linalg.norm(by_length, axis=1))


def bone_deviation(joints_N21x3: NDArray[np.floating], anatomy: Anatomy) -> Floats:
    """Returns the most unusual bone of each hand (N,): by how many standard deviations its length differs.

    joints: metres, the simple order, either side, wherever the wrist is. Over 3 no betas should give.
    """
    joints = np.asarray(joints_N21x3, np.float64)[:, list(MANO_FROM_SIMPLE)]
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, list(MANO_PARENTS[1:])], axis=2)
    deviations = np.abs(lengths - anatomy.bone_lengths) / np.maximum(anatomy.bone_deviations, 1e-6)
    return np.asarray(deviations.max(axis=1))


def joint_limit_excess(hand_pose_N15x3: NDArray[np.floating], anatomy: Anatomy) -> Floats:
    """Returns how far the joint that is bent worst is from anything it can do, (N,) radians; 0 within all limits.

    The distance is the angle to the nearest rotation that flexion, spread and twist within `POSE_LIMITS` give: at a
    right angle of flexion spread and twist cannot be told apart, so that the angles themselves would say nothing.
    hand_pose: absolute axis-angle (0 is the flat hand), of right hands.
    """
    pose = np.asarray(hand_pose_N15x3, np.float64)
    if not len(pose):
        return np.zeros(0)
    rotations = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, 15, 3, 3)
    # In the basis of a joint's axes: about x it bends, about y it spreads, about z it twists.
    rotations = anatomy.axes @ rotations @ anatomy.axes.swapaxes(1, 2)
    low, high = POSE_LIMITS[..., 0], POSE_LIMITS[..., 1]
    # Where the finger points says how it is bent, beyond a right angle too.
    flexion = _clipped(np.arctan2(-rotations[..., 1, 2], rotations[..., 2, 2]), low[:, 0], high[:, 0])
    spread, twist = np.zeros_like(flexion), np.zeros_like(flexion)
    spread, twist = _clipped(spread, low[:, 1], high[:, 1]), _clipped(twist, low[:, 2], high[:, 2])
    for _ in range(_ROUNDS):
        about_x, about_z = _turn(flexion, 0), _turn(twist, 2)
        # The trace of A' R(angle) is largest where R(angle) is nearest to A.
        spread = _clipped(
            _nearest(rotations @ (about_x @ about_z).swapaxes(-1, -2), 1), low[:, 1], high[:, 1]
        )
        about_y = _turn(spread, 1)
        flexion = _clipped(
            _nearest(about_y.swapaxes(-1, -2) @ rotations @ about_z.swapaxes(-1, -2), 0),
            low[:, 0],
            high[:, 0],
        )
        about_x = _turn(flexion, 0)
        twist = _clipped(_nearest((about_y @ about_x).swapaxes(-1, -2) @ rotations, 2), low[:, 2], high[:, 2])
    allowed = _turn(spread, 1) @ _turn(flexion, 0) @ _turn(twist, 2)
    trace = np.einsum("njab,njab->nj", allowed, rotations)
    return np.asarray(np.arccos(np.clip((trace - 1) / 2, -1, 1)).max(axis=1))


def _turn(angles_NJ: Floats, axis: int) -> Floats:
    """Rotations (N, J, 3, 3) about x, y or z."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turned = np.zeros((*angles_NJ.shape, 3, 3))
    turned[..., axis, axis] = 1
    turned[..., a, a] = turned[..., b, b] = np.cos(angles_NJ)
    turned[..., b, a] = np.sin(angles_NJ)
    turned[..., a, b] = -turned[..., b, a]
    return turned


def _nearest(rotations: Floats, axis: int) -> Floats:
    """The angle about x, y or z that comes nearest to a rotation."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    return np.asarray(
        np.arctan2(rotations[..., b, a] - rotations[..., a, b], rotations[..., a, a] + rotations[..., b, b])
    )


def _clipped(angles: Floats, low: Floats, high: Floats) -> Floats:
    """The nearest angle of an interval, going round the shorter way."""
    middle = (low + high) / 2
    around = middle + (angles - middle + np.pi) % (2 * np.pi) - np.pi
    return np.asarray(np.clip(around, low, high))
