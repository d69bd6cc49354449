"""The `release` network against numbers recorded from the authors' published code, tap by tap.

The numbers, weights rule and inputs are the reference's parity folder; without it these tests are skipped.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import PRESETS
from model.handoccnet import published
from model.handoccnet.network import HandOccNet, HandOutput, build_network
from model.rotations import axis_angle_to_rotation, rotation_to_axis_angle, six_d_to_rotation

PARITY = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "parity"
IMAGES = ("syn0", "syn1", "syn2", "real")
MESH_TAPS = ("standin_", "out/joints_coord_cam", "out/mesh_coord_cam", "out/manojoints2cam")

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the reference's parity folder is not here")


@pytest.fixture(scope="module")
def release() -> HandOccNet:
    rule = _script("make_weights")
    entries = json.loads((PARITY / "official_state_dict.json").read_text())
    state = {}
    for entry in entries["entries"] if isinstance(entries, dict) else entries:
        name = entry["key"].removeprefix("module.")
        ours = published.our_name(name)
        if ours is not None:
            state[ours] = torch.from_numpy(rule.make(name, entry["shape"]))
    network = build_network(PRESETS["release"])
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("image", IMAGES)
def test_every_tap_agrees_with_the_published_code_in_float64(release: HandOccNet, image: str) -> None:
    recorded = set(json.loads((PARITY / "network_f64.json").read_text())["taps"])
    not_ours = {tap for tap in recorded if tap.startswith(MESH_TAPS)} | {"input", "p3_smooth_DEAD"}
    errors = _errors(_taps(release.double(), _image(image).double()), image)
    assert set(errors) == recorded - not_ours
    assert {tap: error for tap, error in errors.items() if error > 1e-9} == {}


@pytest.mark.parametrize("image", IMAGES)
def test_float32_strays_hardly_further_than_the_published_code_does(release: HandOccNet, image: str) -> None:
    # Rounding depends on threads and kernels, and one image's entry may be a lucky one: a tap's worst is its bound.
    tolerance = json.loads((PARITY / "network_tolerance.json").read_text())
    errors = _errors(_taps(release.float(), _image(image)), image)
    assert {tap: error for tap, error in errors.items() if error > 5 * max(tolerance[tap].values())} == {}


@pytest.mark.parametrize(
    ("dtype", "suffix", "bound"), [(torch.float64, "f64", 1e-9), (torch.float32, "f32", 2e-5)]
)
def test_rotations_agree_with_the_published_conversions(
    dtype: torch.dtype, suffix: str, bound: float
) -> None:
    with np.load(PARITY / "rotations.npz") as recorded:
        names = recorded["rot6d_names"]
        six_d = torch.from_numpy(recorded["rot6d_in"]).to(dtype)
        matrices, axis_angles = recorded[f"rotmat_{suffix}"], recorded[f"rotmat_to_aa_{suffix}"]
        rotvecs = torch.from_numpy(recorded["aa_in"]).to(dtype)
        from_rotvecs = recorded[f"aa_to_rotmat_{suffix}"]
    sound = ~np.isin(names, ["a2_parallel", "a1_zero", "a2_zero", "both_zero"])
    ours = six_d_to_rotation(six_d)
    assert np.abs(ours.numpy()[names != "a2_parallel"] - matrices[names != "a2_parallel"]).max() < bound
    # Near half a turn the axis may come with either sign, so the turn itself is compared.
    ours_aa = rotation_to_axis_angle(ours)
    again = axis_angle_to_rotation(ours_aa).numpy()
    theirs_again = axis_angle_to_rotation(torch.from_numpy(axis_angles).to(dtype)).numpy()
    assert np.abs(again[sound] - theirs_again[sound]).max() < bound * 100
    # The published code adds 1e-8 to each number before it takes the angle.
    assert np.abs(axis_angle_to_rotation(rotvecs).numpy() - from_rotvecs).max() < max(bound, 3e-8)


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"parity_{name}", PARITY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _image(name: str) -> Tensor:
    if name == "real":
        with np.load(PARITY / "input_real.npz") as arrays:
            return torch.from_numpy(arrays["img"])[None]
    return torch.from_numpy(_script("make_inputs").image(int(name[3:])))[None]


def _errors(taps: dict[str, Tensor], image: str) -> dict[str, float]:
    """Return max |Δ| / std per tap, over the recorded values and over mean and std of all values."""
    rule = _script("index_rule")
    cap = json.loads((PARITY / "network_f64.json").read_text())["cap"]
    errors = {}
    with np.load(PARITY / "network_f64.npz") as recorded:
        for tap, tensor in taps.items():
            ours: NDArray[Any] = tensor.numpy().astype(np.float64)
            stats = recorded[f"{image}/{tap}__stats"]
            values = np.abs(rule.sample(ours, cap) - recorded[f"{image}/{tap}"].reshape(-1)).max()
            errors[tap] = float(max(values, np.abs(rule.stats(ours)[:2] - stats[:2]).max()) / stats[1])
    return errors


def _taps(network: HandOccNet, image_13HW: Tensor) -> dict[str, Tensor]:
    """Run the network and return what stands at each place that the reference names."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> None:
        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.clone()

        def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments and isinstance(arguments[0], Tensor):
                inputs[name] = arguments[0].clone()

        handles.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

    handles: list[Any] = []
    for name, module in network.named_modules():
        watch(name, module)
    with torch.inference_mode():
        output = network(image_13HW)
    for handle in handles:
        handle.remove()
    taps = _backbone_taps(inputs, outputs)
    for place, part, blocks in (("FIT", "injection", 2), ("SET", "enhancement", 2)):
        for index in range(blocks):
            taps |= _block_taps(f"{place}_l{index}", f"{part}.blocks.{index}", inputs, outputs)
    taps |= {
        "FIT_fuse_conv1": outputs["injection.fusion.conv1"],
        "FIT_fuse_conv2": outputs["injection.fusion.conv2"],
        "FIT": outputs["injection"],
        "SET": outputs["enhancement"],
    }
    taps |= _regressor_taps(inputs, outputs, output)
    return {tap: tensor[0] for tap, tensor in taps.items()}


def _backbone_taps(inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    trunk = {f"c{level + 1}": outputs[f"backbone.trunk.layer{level}"] for level in range(1, 5)}
    laterals = {f"lateral_c{level}": outputs[f"backbone.merge{level}.lateral"] for level in (2, 3, 4)}
    return (
        trunk
        | laterals
        | {
            "c1": outputs["backbone.trunk.maxpool"],
            "p5": outputs["backbone.top"],
            "p3_before_smooth": outputs["backbone.merge3"],
            "p2_before_smooth": outputs["backbone.merge2"],
            "p2_smooth": outputs["backbone.smooth"],
            "F": outputs["backbone"],
            "gate_in_max_mean": inputs["necessity.conv"],
            "gate_conv": outputs["necessity.conv"],
            "gate_logit": outputs["necessity.bn"],
            "primary": inputs["injection"],
            "secondary": inputs["injection.blocks.0"],
        }
    )


def _block_taps(
    tap: str, name: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    taps = {f"{tap}_encode_{part}": outputs[f"{name}.{part}"] for part in ("query", "key", "value")}
    attended = inputs[f"{name}.norm"]
    if tap.startswith("SET"):
        attended = attended - inputs[name].flatten(2).transpose(1, 2)
    else:
        taps |= {
            f"{tap}_encode_query2": outputs[f"{name}.second_query"],
            f"{tap}_encode_key2": outputs[f"{name}.second_key"],
            f"{tap}_sigmoid_logit": inputs[f"{name}.gate.sigmoid"],
            f"{tap}_sigmoid_gate": outputs[f"{name}.gate.sigmoid"],
        }
    return taps | {
        f"{tap}_attn_tokens": attended,
        f"{tap}_norm2_tokens": outputs[f"{name}.norm"],
        f"{tap}_fc1_tokens": outputs[f"{name}.mlp.0"],
        f"{tap}_mlp_tokens": outputs[f"{name}.mlp"],
        f"{tap}_out": outputs[name],
    }


def _regressor_taps(
    inputs: dict[str, Tensor], outputs: dict[str, Tensor], out: HandOutput
) -> dict[str, Tensor]:
    places = {"0": "skips", "1": "downs", "2": "ups"}
    taps = {
        f"hg_{level}_{place}": outputs[f"heatmap_head.hourglass.{part}.{level}"]
        for level in range(4)
        for place, part in places.items()
    }
    taps |= {f"enc_reg{index}": outputs[f"regressor.blocks.{index}"] for index in range(8)}
    return taps | {
        "hg_0_3": outputs["heatmap_head.hourglass.bottom"],
        "hg": outputs["heatmap_head.hourglass"],
        "hg_res": outputs["heatmap_head.refine"],
        "encoding": outputs["heatmap_head.encode"],
        "heatmap_logits": outputs["heatmap_head.score"],
        "heatmaps": out.heatmaps,
        "joints_img": out.joints_2d,
        "enc_heatmap_conv": outputs["regressor.entry.heatmap_conv"],
        "enc_encoding_conv": outputs["regressor.entry.encoding_conv"],
        "enc_in": inputs["regressor.blocks.0"],
        "enc_vector_1024": inputs["regressor.hidden"],
        "mano_feat_512": inputs["regressor.pose"],
        "pose6d_96": outputs["regressor.pose"],
        "mano_shape_10": out.betas,
        "pose_rotmat_16x3x3": out.rotations,
        "pose_axisangle_48": out.axis_angle,
        "out/joints_coord_img": out.joints_2d,
        "out/mano_pose": out.axis_angle,
        "out/mano_pose_aa": out.axis_angle,
        "out/mano_shape": out.betas,
    }
