"""The index lists agree with each other and with the joints' names."""

from model.mano.joints import (
    BONES,
    FINGERTIP_VERTICES,
    HO3D_FROM_SIMPLE,
    JOINT_NAMES,
    MANO_FROM_SIMPLE,
    MANO_JOINT_NAMES,
    MANO_PARENTS,
    SIMPLE_FROM_HO3D,
    TIPS_IN_SIMPLE,
)

HO3D_NAMES = (*MANO_JOINT_NAMES, "thumb_tip", "index_tip", "middle_tip", "ring_tip", "little_tip")


def test_the_orders_name_the_same_joints() -> None:
    assert tuple(HO3D_NAMES[joint] for joint in SIMPLE_FROM_HO3D) == JOINT_NAMES
    assert tuple(JOINT_NAMES[joint] for joint in HO3D_FROM_SIMPLE) == HO3D_NAMES
    assert tuple(JOINT_NAMES[joint] for joint in MANO_FROM_SIMPLE) == MANO_JOINT_NAMES
    assert tuple(JOINT_NAMES[joint] for joint in TIPS_IN_SIMPLE) == HO3D_NAMES[16:]


def test_a_bone_joins_each_joint_to_its_parent() -> None:
    between_mano_joints = {
        (MANO_JOINT_NAMES[parent], MANO_JOINT_NAMES[joint])
        for joint, parent in enumerate(MANO_PARENTS)
        if joint
    }
    to_the_tips = {(name.replace("tip", "3"), name) for name in HO3D_NAMES[16:]}
    assert {(JOINT_NAMES[a], JOINT_NAMES[b]) for a, b in BONES} == between_mano_joints | to_the_tips
    assert len(BONES) == 20


def test_every_fingertip_set_names_five_vertices_of_the_mesh() -> None:
    for vertices in FINGERTIP_VERTICES.values():
        assert len(set(vertices)) == 5
        assert all(0 <= vertex < 778 for vertex in vertices)
