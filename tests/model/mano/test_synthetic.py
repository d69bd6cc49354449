"""The procedural hand: a sound mesh, MANO's conventions, and poses and shapes that keep it whole."""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.asset import HandModel
from model.mano.joints import FINGERTIP_VERTICES, MANO_PARENTS
from model.mano.poses import NAMED_POSES, POSE_LIMITS, named_pose, pose_from_angles, random_pose
from model.mano.synthetic import export_mano_pickle, synthetic_hand

Array = NDArray[np.float64]

LAST_JOINTS = (15, 3, 6, 12, 9)  # of thumb, index, middle, ring, little


def joints(model: HandModel, vertices: Array) -> Array:
    return model.J_regressor.astype(float) @ vertices


def posed(model: HandModel, poses: Array, betas: Array | None = None) -> Array:
    """Vertices (N, 778, 3) by MANO's equations, written out in numpy: nothing of the layer under test elsewhere."""
    shaped = model.v_template.astype(float)
    if betas is not None:
        shaped = shaped + model.shapedirs @ betas
    rest = joints(model, shaped)
    result = []
    for pose in poses.reshape(-1, 15, 3):
        turns = np.concatenate([np.eye(3)[None], Rotation.from_rotvec(pose).as_matrix()])
        corrected = shaped + model.posedirs @ (turns[1:] - np.eye(3)).ravel()
        world = np.tile(np.eye(4), (16, 1, 1))
        for joint, parent in enumerate(MANO_PARENTS):
            local = np.eye(4)
            local[:3, :3] = turns[joint]
            local[:3, 3] = rest[joint] - (rest[parent] if parent >= 0 else 0)
            world[joint] = local if parent < 0 else world[parent] @ local
        world[:, :3, 3] -= np.einsum("jab,jb->ja", world[:, :3, :3], rest)
        blend = np.einsum("vj,jab->vab", model.weights, world)
        result.append(np.einsum("vab,vb->va", blend[:, :3, :3], corrected) + blend[:, :3, 3])
    return np.array(result)


def edges(model: HandModel) -> NDArray[np.int64]:
    """Directed edges (3 * 1538, 2), one for each side of each face."""
    return np.concatenate([model.faces[:, [0, 1]], model.faces[:, [1, 2]], model.faces[:, [2, 0]]])


def face_normals(model: HandModel, vertices: Array) -> Array:
    a, b, c = (vertices[..., model.faces[:, k], :] for k in range(3))
    return np.cross(b - a, c - a)


@cache
def neighbours() -> NDArray[np.int64]:
    """Pairs of faces that share an edge."""
    model = synthetic_hand()
    sides = np.sort(edges(model), axis=1)
    order = np.lexsort(sides.T)
    same = np.flatnonzero((sides[order[1:]] == sides[order[:-1]]).all(axis=1))
    return np.stack([order[same], order[same + 1]], axis=1) % len(model.faces)


@cache
def extremes() -> Array:
    """Every joint of the fingers alone at each end of each range, (N, 45)."""
    angles = []
    for joint, axis, end in product(range(15), range(3), range(2)):
        if POSE_LIMITS[joint, axis, end] != 0:
            angle = np.zeros((15, 3))
            angle[joint, axis] = POSE_LIMITS[joint, axis, end]
            angles.append(angle)
    return pose_from_angles(np.array(angles))


def test_the_mesh_is_one_sheet_with_a_single_hole_of_16_edges_at_the_wrist() -> None:
    model = synthetic_hand()
    assert model.v_template.shape == (778, 3)
    assert model.faces.shape == (1538, 3)
    directed, count = np.unique(edges(model), axis=0, return_counts=True)
    assert (count == 1).all()  # neighbours run along their edge in opposite directions
    backwards = {tuple(edge) for edge in directed[:, ::-1]}
    rim = np.array([edge for edge in directed if tuple(edge) not in backwards])
    assert len(rim) == 16
    following = dict(rim.tolist())
    vertex, loop = rim[0, 0], []
    while vertex not in loop:
        loop.append(vertex)
        vertex = following[vertex]
    assert len(loop) == 16
    assert model.v_template[loop, 0].min() > joints(model, model.v_template)[0, 0]  # behind the wrist
    assert 778 - (len(directed) - 16) // 2 - 16 + 1538 == 1  # Euler's number of a disk
    assert len(np.unique(model.faces)) == 778


def test_the_faces_look_outwards() -> None:
    for side in ("right", "left"):
        model = synthetic_hand(side)
        centre = model.v_template.mean(axis=0)
        directed = edges(model).tolist()
        forward = {tuple(edge) for edge in directed}
        rim = [(a, b) for a, b in directed if (b, a) not in forward]
        points = model.v_template.astype(float) - centre
        volume = np.einsum(
            "fi,fi->", points[model.faces[:, 0]], np.cross(*points[model.faces[:, 1:]].swapaxes(0, 1))
        )
        middle = points[[a for a, _ in rim]].mean(axis=0)
        volume += sum(middle @ np.cross(points[b], points[a]) for a, b in rim)
        assert 250e-6 < volume / 6 < 450e-6  # cubic metres, of an adult hand


def test_the_hand_has_the_size_and_the_stance_of_mano_at_rest() -> None:
    model = synthetic_hand()
    rest = joints(model, model.v_template)
    np.testing.assert_allclose(rest[0], [0.095, 0.006, 0.006], atol=1e-4)
    tips = model.v_template[list(model.fingertip_vertices)]
    reach = np.linalg.norm(tips - rest[0], axis=1)
    assert 0.185 < reach[2] < 0.195
    assert (
        reach[2] > max(reach[1], reach[3]) > min(reach[1], reach[3]) > reach[4]
    )  # middle longest, little shortest
    assert (tips[1:, 0] < -0.04).all()  # fingers along -x
    assert np.argmax(tips[:, 2]) == 0  # the thumb towards +z
    bent = posed(model, model.hands_mean)[0][list(model.fingertip_vertices)]
    assert (bent[1:, 1] < tips[1:, 1] - 0.03).all()  # the mean pose bends towards the palm, -y


@pytest.mark.parametrize("convention", FINGERTIP_VERTICES)
def test_every_fingertip_convention_names_vertices_on_the_right_tip(convention: str) -> None:
    model = synthetic_hand()
    assert model.fingertip_vertices == FINGERTIP_VERTICES["manopth"]
    rest = joints(model, model.v_template)
    for finger, (vertex, last) in enumerate(zip(FINGERTIP_VERTICES[convention], LAST_JOINTS, strict=True)):
        along = rest[last] - rest[last - 1]
        reach = (model.v_template - rest[last]) @ (along / np.linalg.norm(along))
        own = np.flatnonzero(model.weights[:, last] > 0.5)
        extreme = own[np.argmax(reach[own])]
        assert np.linalg.norm(model.v_template[vertex] - model.v_template[extreme]) < 0.008
        assert model.weights[vertex, last] > 0.99, (finger, vertex)
        if convention == "manopth":
            assert vertex == extreme


def test_weights_and_joints_are_averages() -> None:
    model = synthetic_hand()
    for rows in (model.weights, model.J_regressor):
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert ((model.weights > 0).sum(axis=1) <= 4).all()
    np.testing.assert_allclose(model.hands_components @ model.hands_components.T, np.eye(45), atol=1e-5)


def test_no_triangle_at_rest_is_a_sliver() -> None:
    model = synthetic_hand()
    a, b, c = (model.v_template[model.faces[:, k]].astype(float) for k in range(3))
    sides = np.stack([np.linalg.norm(p - q, axis=1) for p, q in ((a, b), (b, c), (c, a))])
    area = np.linalg.norm(face_normals(model, model.v_template.astype(float)), axis=1) / 2
    assert area.min() > 2e-6
    assert (2 * area / sides.max(axis=0) ** 2).min() > 0.15  # height over base


def test_the_left_hand_is_the_mirrored_right_hand_in_every_pose_and_shape() -> None:
    right, left = synthetic_hand("right"), synthetic_hand("left")
    poses = random_pose(np.random.default_rng(0), 4).astype(float)
    betas = np.linspace(-2, 2, 10)
    mirrored = poses * np.tile([1.0, -1.0, -1.0], 15)
    expected = posed(right, poses, betas) * [-1.0, 1.0, 1.0]
    np.testing.assert_allclose(posed(left, mirrored, betas), expected, atol=1e-7)
    assert (left.faces == right.faces[:, [0, 2, 1]]).all()
    np.testing.assert_array_equal(left.hands_mean, right.hands_mean * np.tile([1, -1, -1], 15))


def test_smplx_loads_the_exported_file_and_poses_it_alike(tmp_path: Path) -> None:
    model = synthetic_hand()
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(export_mano_pickle(model))
    pose = random_pose(np.random.default_rng(3), 1)
    betas = np.linspace(-1, 1, 10)
    layer = smplx.MANO(str(path), use_pca=False, flat_hand_mean=True)
    output = layer(
        betas=torch.tensor(betas[None], dtype=torch.float32),
        global_orient=torch.zeros(1, 3),
        hand_pose=torch.tensor(pose),
    )
    np.testing.assert_allclose(output.vertices[0].detach(), posed(model, pose, betas)[0], atol=2e-6)
    np.testing.assert_array_equal(layer.faces, model.faces)


def test_poses_between_the_limits_leave_the_skin_whole() -> None:
    model = synthetic_hand()
    named = np.array([named_pose(name) for name in NAMED_POSES])
    poses = np.concatenate([extremes(), named, random_pose(np.random.default_rng(7), 60)])
    vertices = posed(model, poses)
    rest = model.v_template.astype(float)
    pairs = np.unique(np.sort(edges(model), axis=1), axis=0)
    lengths = np.linalg.norm(vertices[:, pairs[:, 0]] - vertices[:, pairs[:, 1]], axis=-1)
    stretch = lengths / np.linalg.norm(rest[pairs[:, 0]] - rest[pairs[:, 1]], axis=-1)
    assert stretch.max() < 6  # webs, between a bent and a straight finger
    assert np.percentile(stretch, 99.5) < 1.6
    normals = face_normals(model, vertices)
    assert np.linalg.norm(normals, axis=-1).min() / 2 > 3e-7
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    cosines = (normals[:, neighbours()[:, 0]] * normals[:, neighbours()[:, 1]]).sum(-1)
    flipped = (cosines < np.cos(np.radians(150))).sum(axis=1)
    assert flipped.max() <= 6  # of 2299 pairs: folds in the webs
    assert flipped.mean() < 0.4


def test_bent_fingers_keep_their_thickness() -> None:
    model = synthetic_hand()
    pose = np.zeros((15, 3))
    pose[1] = named_pose("fist").reshape(15, 3)[1]  # the index's second joint, bent by more than 100 degrees
    assert np.linalg.norm(pose[1]) > np.radians(100)
    vertices = posed(model, pose)[0]
    rest = joints(model, model.v_template)[2]
    near = np.linalg.norm(model.v_template - rest, axis=1) < 0.012
    before = np.linalg.norm(model.v_template[near] - rest, axis=1)
    after = np.linalg.norm(vertices[near] - rest, axis=1)
    assert (after / before).min() > 0.9  # linear blending alone: 0.66
    assert 0.9 < (after / before).mean() < 1.1


def test_random_poses_keep_to_the_limits_and_to_their_seed() -> None:
    poses = random_pose(np.random.default_rng(5), 200)
    assert poses.shape == (200, 45)
    assert poses.dtype == np.float32
    np.testing.assert_array_equal(poses, random_pose(np.random.default_rng(5), 200))
    widest = np.abs(POSE_LIMITS).max(axis=2)
    bound = np.linalg.norm(widest, axis=1)
    assert (np.linalg.norm(poses.reshape(-1, 15, 3), axis=2) <= bound + 1e-5).all()
    assert poses.std(axis=0).reshape(15, 3).max(axis=1).min() > np.radians(5)  # no joint stands still


def test_named_poses_keep_to_the_limits() -> None:
    for name in NAMED_POSES:
        turn = named_pose(name).reshape(15, 3)
        assert (
            np.linalg.norm(turn, axis=1) <= np.linalg.norm(np.abs(POSE_LIMITS).max(axis=2), axis=1) + 1e-9
        ).all()


def test_three_deviations_of_any_shape_direction_still_make_a_hand() -> None:
    model = synthetic_hand()
    rest = model.v_template.astype(float)
    area = np.linalg.norm(face_normals(model, rest), axis=1)
    normals = face_normals(model, rest)
    lengths = []
    for direction, amount in product(range(10), (-3.0, 3.0)):
        vertices = rest + amount * model.shapedirs[..., direction]
        changed = face_normals(model, vertices)
        assert ((changed * normals).sum(-1) > 0).all()  # no face turns over
        assert (np.linalg.norm(changed, axis=1) / area > 0.4).all()
        moved = joints(model, vertices)
        lengths.append(np.linalg.norm(vertices[444] - moved[0]))
        bones = [np.linalg.norm(moved[j] - moved[p]) for j, p in enumerate(MANO_PARENTS) if p >= 0]
        usual = joints(model, rest)
        ratio = np.array(bones) / [
            np.linalg.norm(usual[j] - usual[p]) for j, p in enumerate(MANO_PARENTS) if p >= 0
        ]
        assert 0.75 < ratio.min() <= ratio.max() < 1.25
    assert 0.15 < min(lengths) < max(lengths) < 0.23
    flat = model.shapedirs.reshape(-1, 10) / np.linalg.norm(model.shapedirs.reshape(-1, 10), axis=0)
    assert np.abs(flat.T @ flat - np.eye(10)).max() < 0.7


def test_joints_follow_the_shape_inside_the_flesh() -> None:
    """A finger that grows must carry its joints along, or bends would happen at the wrong place."""
    model = synthetic_hand()
    for joint, tip in zip(LAST_JOINTS, model.fingertip_vertices, strict=True):
        for direction in range(10):
            vertices = model.v_template + 3 * model.shapedirs[..., direction].astype(float)
            before, after = joints(model, model.v_template), joints(model, vertices)
            last = np.linalg.norm(vertices[tip] - after[joint]) / np.linalg.norm(
                model.v_template[tip] - before[joint]
            )
            bone = np.linalg.norm(after[joint] - after[joint - 1]) / np.linalg.norm(
                before[joint] - before[joint - 1]
            )
            assert abs(last - bone) < 0.03


def test_the_hand_under_this_name_never_changes() -> None:
    """Weights and annotations refer to `synthetic-v1` by name: whoever changes the hand must give it the next one."""
    model = synthetic_hand()
    assert model.name == "synthetic-v1"
    sums = {
        "v_template": 65.01235,
        "shapedirs": 10.87395,
        "posedirs": 13.84251,
        "hands_mean": 7.94612,
        "hands_components": 77.59206,
    }
    for name, expected in sums.items():
        assert np.abs(getattr(model, name).astype(float)).sum() == pytest.approx(expected, rel=1e-4), name
    assert (model.faces * [1, 2, 3]).sum() == 3647998
