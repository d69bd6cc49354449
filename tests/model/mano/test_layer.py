"""The layer against the recorded numbers of the published one, and against smplx as our readers call it."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import smplx
import torch
from numpy.typing import NDArray
from smplx.utils import Struct

from model.mano.asset import HandModel, Side, hand_model_from_arrays
from model.mano.joints import SIMPLE_FROM_HO3D, TIPS_IN_SIMPLE
from model.mano.layer import ManoLayer, ManoOutput, wrist_relative
from model.mano.synthetic import synthetic_hand

PARITY = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "parity"
needs_parity = pytest.mark.skipif(not PARITY.exists(), reason="needs the recorded numbers")
# The published layer normalises rotation vectors after adding 1e-8 to them; that is the difference left.
QUIRK_MM = 1e-5


@needs_parity
@pytest.mark.parametrize("side", ["right", "left"])
def test_it_poses_the_stand_in_hand_as_the_published_layer_does(side: Side) -> None:
    recorded = np.load(PARITY / "mano_standin.npz")
    output = _posed(ManoLayer(_stand_in(side), torch.float64), recorded["pose"], recorded["betas"])

    vertices_mm = output.vertices_BV3.numpy() * 1000
    np.testing.assert_allclose(vertices_mm, recorded[f"{side}_verts_mm_f64"], rtol=0, atol=QUIRK_MM)
    transforms = output.joint_transforms_B16x44.numpy()
    np.testing.assert_allclose(transforms, recorded[f"{side}_transforms_m_f64"], rtol=0, atol=1e-7)
    # The published left hand has a middle fingertip of its own; ours is the mirrored right hand's.
    same = [joint for joint in range(21) if side == "right" or joint != TIPS_IN_SIMPLE[2]]
    joints_mm = output.joints_B21x3.numpy()[:, same] * 1000
    np.testing.assert_allclose(joints_mm, recorded[f"{side}_joints_mm_f64"][:, same], rtol=0, atol=QUIRK_MM)


@needs_parity
def test_single_precision_costs_less_than_a_ten_thousandth_of_a_millimetre() -> None:
    recorded = np.load(PARITY / "mano_standin.npz")
    output = _posed(ManoLayer(_stand_in("right")), recorded["pose"], recorded["betas"])
    difference_mm = output.vertices_BV3.numpy() * 1000 - recorded["right_verts_mm_f64"]
    assert output.vertices_BV3.dtype == torch.float32
    assert np.abs(difference_mm).max() < 1e-4


@needs_parity
@pytest.mark.parametrize("image", ["syn0", "syn1", "syn2", "real"])
def test_the_networks_pose_and_shape_give_its_recorded_mesh(image: str) -> None:
    recorded = np.load(PARITY / "network_f64.npz")
    pose, betas = recorded[f"{image}/pose_axisangle_48"], recorded[f"{image}/mano_shape_10"]
    output = _posed(ManoLayer(_stand_in("right"), torch.float64), pose[None], betas[None])
    for tap, values in (
        ("standin_verts_m", output.vertices_BV3),
        ("out/mesh_coord_cam", output.vertices_BV3),
        ("standin_joints_m", output.joints_B21x3),
        ("out/joints_coord_cam", output.joints_B21x3),
        ("standin_manojoints2cam", output.joint_transforms_B16x44),
    ):
        expected = recorded[f"{image}/{tap}"].reshape(values[0].shape)
        np.testing.assert_allclose(values[0].numpy(), expected, rtol=0, atol=1e-7, err_msg=tap)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_reader_gets_the_same_hand_from_smplx(side: Side) -> None:
    hand_model = synthetic_hand(side)
    global_orient, hand_pose, betas, transl = _random((3, 3), (3, 45), (3, 10), (3, 3))
    theirs = _smplx_hand(hand_model)(betas, global_orient, hand_pose, transl)

    rotations = roma.rotvec_to_rotmat(torch.cat([global_orient, hand_pose], dim=1).view(3, 16, 3))
    ours = ManoLayer(hand_model, torch.float64)(rotations, betas)

    vertices, joints = wrist_relative(ours)
    torch.testing.assert_close(theirs.vertices - theirs.joints[:, :1], vertices, rtol=0, atol=1e-8)
    tips = theirs.vertices[:, list(hand_model.fingertip_vertices)]
    theirs_21 = torch.cat([theirs.joints, tips], dim=1)[:, list(SIMPLE_FROM_HO3D)]
    torch.testing.assert_close(theirs_21 - theirs.joints[:, :1], joints, rtol=0, atol=1e-8)
    # What we call translation is the wrist: smplx's transl and the rest joint J0(betas).
    translation = transl + ours.joints_B21x3[:, 0]
    torch.testing.assert_close(theirs.vertices, vertices + translation[:, None], rtol=0, atol=1e-8)


def test_the_global_rotation_turns_about_the_wrist_and_leaves_it_in_place() -> None:
    layer = ManoLayer(synthetic_hand(), torch.float64)
    pose, betas = _random((2, 48), (1, 10))
    pose[:, 3:] = pose[:1, 3:]
    rotations = roma.rotvec_to_rotmat(pose.view(2, 16, 3))
    output = layer(rotations, betas.expand(2, 10))

    torch.testing.assert_close(output.joints_B21x3[0, 0], output.joints_B21x3[1, 0])
    vertices, _ = wrist_relative(output)
    turned_back = vertices @ rotations[:, 0]
    torch.testing.assert_close(turned_back[0], turned_back[1])


def test_pose_offsets_are_added_to_the_mean_pose_as_axis_angle_vectors() -> None:
    hand_model = replace(synthetic_hand(), hands_mean=np.linspace(-1, 1, 45, dtype=np.float32))
    (offsets,) = _random((2, 15, 3))
    absolute = ManoLayer(hand_model).absolute_pose(offsets)
    expected = offsets.view(2, 45).numpy() + hand_model.hands_mean
    np.testing.assert_allclose(absolute.view(2, 45).numpy(), expected, atol=1e-7)


def test_pose_and_betas_get_gradients() -> None:
    layer = ManoLayer(synthetic_hand(), torch.float64)
    pose, betas = _random((2, 16, 3), (2, 10))

    def some_points(pose: torch.Tensor, betas: torch.Tensor) -> torch.Tensor:
        output: ManoOutput = layer(roma.rotvec_to_rotmat(pose), betas)
        return torch.cat([output.joints_B21x3[:, ::7], output.vertices_BV3[:, ::200]], dim=1)

    assert torch.autograd.gradcheck(some_points, (pose.requires_grad_(), betas.requires_grad_()))


def test_licensed_arrays_never_enter_a_state_dict() -> None:
    layer = ManoLayer(synthetic_hand())
    assert not layer.state_dict()
    assert not list(layer.parameters())


def test_it_computes_in_full_precision_under_autocast() -> None:
    layer = ManoLayer(synthetic_hand())
    pose, betas = (values.float() for values in _random((2, 16, 3), (2, 10)))
    rotations = roma.rotvec_to_rotmat(pose)
    expected = layer(rotations, betas).vertices_BV3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(rotations, betas)
    assert output.joint_transforms_B16x44.dtype == torch.float32
    torch.testing.assert_close(output.vertices_BV3, expected)


def _posed(layer: ManoLayer, pose_48: NDArray[np.floating], betas: NDArray[np.floating]) -> ManoOutput:
    """The output for poses given as the published layer takes them: offsets from the mean pose."""
    dtype = layer.v_template.dtype
    pose = torch.tensor(pose_48, dtype=dtype).view(-1, 16, 3)
    absolute = torch.cat([pose[:, :1], layer.absolute_pose(pose[:, 1:])], dim=1)
    output: ManoOutput = layer(roma.rotvec_to_rotmat(absolute), torch.tensor(betas, dtype=dtype))
    return output


def _random(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _smplx_hand(hand_model: HandModel) -> smplx.MANO:
    """smplx's own class on our arrays, asked for as the README tells readers to."""
    arrays = Struct(
        v_template=hand_model.v_template,
        shapedirs=hand_model.shapedirs,
        posedirs=hand_model.posedirs,
        J_regressor=hand_model.J_regressor,
        weights=hand_model.weights,
        f=hand_model.faces,
        hands_mean=hand_model.hands_mean,
        hands_components=hand_model.hands_components,
        kintree_table=np.array([[0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], range(16)]),
    )
    return smplx.MANO(
        "",
        is_rhand=hand_model.side == "right",
        data_struct=arrays,
        use_pca=False,
        flat_hand_mean=True,
        dtype=torch.float64,
    )


def _stand_in(side: Side) -> HandModel:
    """The arrays that the numbers were recorded with: not a hand, but MANO's shapes and rough magnitudes.

    The rule is that of parity/make_standin_mano.py: every array has a generator seeded by its side and name.
    """

    def drawn(name: str) -> np.random.RandomState:
        return np.random.RandomState(zlib.crc32(f"standin/{side}/{name}".encode()))

    def shares(name: str, shape: tuple[int, int], power: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = drawn(name).random_sample(shape) ** power
        values /= values.sum(axis=1, keepdims=True)
        return values

    centre = [0.09, 0.006, 0.006]
    arrays = {
        "v_template": 0.03 * drawn("v_template").standard_normal((778, 3)) + centre,
        "shapedirs": 0.002 * drawn("shapedirs").standard_normal((778, 3, 10)),
        "posedirs": 0.0005 * drawn("posedirs").standard_normal((778, 3, 135)),
        "J_regressor": shares("J_regressor", (16, 778), 8),
        "weights": shares("weights", (778, 16), 6),
        "f": drawn("f").randint(0, 778, (1538, 3)),
        "hands_mean": 0.2 * drawn("hands_mean").standard_normal(45),
        "hands_components": np.eye(45),
    }
    return hand_model_from_arrays(arrays, side)
