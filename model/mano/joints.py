"""Every index list of the hand, with its source: joint orders, the kinematic tree, fingertips, bones.

Orders in use:
- MANO: wrist, index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3 (16 joints, no tips).
- HO-3D: MANO, then the tips of thumb, index, middle, ring, little (21 joints).
- simple: wrist, then thumb, index, middle, ring, little with four joints each, tip last (21 joints); the
  order of manopth, FreiHAND, DexYCB, OpenPose and MediaPipe, and of everything this project writes.
"""

from typing import Final

FingertipVertices = tuple[int, int, int, int, int]

JOINT_COUNT: Final = 21
MANO_JOINT_COUNT: Final = 16

# MANO v1.2, `kintree_table`; the root has no parent.
MANO_PARENTS: Final = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

MANO_JOINT_NAMES: Final = (
    "wrist",
    *("index_1", "index_2", "index_3"),
    *("middle_1", "middle_2", "middle_3"),
    *("little_1", "little_2", "little_3"),
    *("ring_1", "ring_2", "ring_3"),
    *("thumb_1", "thumb_2", "thumb_3"),
)

JOINT_NAMES: Final = (
    "wrist",
    *("thumb_1", "thumb_2", "thumb_3", "thumb_tip"),
    *("index_1", "index_2", "index_3", "index_tip"),
    *("middle_1", "middle_2", "middle_3", "middle_tip"),
    *("ring_1", "ring_2", "ring_3", "ring_tip"),
    *("little_1", "little_2", "little_3", "little_tip"),
)

# Row i of the simple order is row SIMPLE_FROM_HO3D[i] of HO-3D's, which is MANO's 16 joints and five tips
# (github.com/hassony2/manopth, github.com/shreyashampali/ho3d).
SIMPLE_FROM_HO3D: Final = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
HO3D_FROM_SIMPLE: Final = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20)

# Where MANO's 16 joints stand in the simple order.
MANO_FROM_SIMPLE: Final = HO3D_FROM_SIMPLE[:MANO_JOINT_COUNT]
# Where the five tips stand in it, thumb to little.
TIPS_IN_SIMPLE: Final = (4, 8, 12, 16, 20)

# Of each finger its first joint in MANO's order, and its place among the tips.
FIRST_TO_TIP: Final = ((13, 0), (1, 1), (4, 2), (10, 3), (7, 4))

# Mesh vertices taken as the tips of thumb, index, middle, ring, little. The sets in use differ by some mm:
# shards and annotations name theirs.
FINGERTIP_VERTICES: Final[dict[str, FingertipVertices]] = {
    "manopth": (745, 317, 444, 556, 673),  # and manotorch, right hand; the published HandOccNet's output
    "smplx": (744, 320, 443, 554, 671),  # smplx.vertex_ids["mano"]; HaMeR, WiLoR
    "freihand": (744, 320, 443, 555, 672),  # github.com/lmb-freiburg/freihand
    "ho3d": (744, 333, 444, 555, 672),  # github.com/shreyashampali/ho3d
    "joint_regressor": (728, 353, 442, 576, 694),  # the regressor of I2L-MeshNet and Pose2Mesh
}

# Parent and child of every bone, in the simple order: what a skeleton drawing joins.
BONES: Final = tuple(
    (0 if joint == finger else joint - 1, joint)
    for finger in range(1, JOINT_COUNT, 4)
    for joint in range(finger, finger + 4)
)
