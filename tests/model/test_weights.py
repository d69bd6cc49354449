import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.config import PRESETS, ablated
from model.errors import ModelError
from model.handoccnet.network import build_network
from model.weights import (
    adapted_weights,
    carried_hand_model,
    is_checkpoint,
    load_imagenet_resnet50,
    load_weights,
    random_weights,
    save_weights,
)

PARITY = Path(__file__).resolve().parents[2] / ".." / "shared" / "reference" / "parity"
TINY = PRESETS["tiny"]


def _saved(entries: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(entries, stream)
    return stream.getvalue()


def _images(size: int) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def _published_shapes() -> dict[str, tuple[int, ...]]:
    """The 892 network entries, 9 of MANO and 3 of the fitting demo, by the names of the authors' code.

    Names and shapes: reference RELEASE_NETWORK sections 1 and 7.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def residual(name: str, norms: tuple[str, str, str]) -> None:
        for bn, channels in zip(norms, (256, 128, 128), strict=True):
            norm(f"{name}.{bn}", channels)
        layer(f"{name}.conv1", 128, 256, 1, 1)
        layer(f"{name}.conv2", 128, 128, 3, 3)
        layer(f"{name}.conv3", 256, 128, 1, 1)

    layer("backbone.layer0.0", 64, 3, 7, 7, bias=False)
    norm("backbone.layer0.1", 64)
    for name, shape in _resnet50_shapes().items():
        if name.startswith("layer"):
            shapes[f"backbone.{name[:6]}.0{name[6:]}"] = shape
    for name, channels in {"toplayer": 2048, "latlayer1": 1024, "latlayer2": 512, "latlayer3": 256}.items():
        layer(f"backbone.{name}", 256, channels, 1, 1)
    layer("backbone.smooth2", 256, 256, 3, 3)
    layer("backbone.smooth3", 256, 256, 3, 3)
    layer("backbone.attention_module.spatial.conv", 1, 2, 7, 7, bias=False)
    norm("backbone.attention_module.spatial.bn", 1)
    for block in ("FIT.layers.0", "FIT.layers.1", "SET.layers.0", "SET.layers.1"):
        shapes[f"{block}.q_embedding"] = shapes[f"{block}.k_embedding"] = (1, 256, 32, 32)
        for part in ("query", "key", "value") + ("query2", "key2") * block.startswith("FIT"):
            layer(f"{block}.encode_{part}", 256, 256, 1, 1)
        layer(f"{block}.norm2", 256)
        layer(f"{block}.mlp.fc1", 1024, 256)
        layer(f"{block}.mlp.fc2", 256, 1024)
    layer("FIT.conv1.0", 256, 512, 3, 3)
    layer("FIT.conv1.2", 256, 256, 3, 3)
    layer("FIT.conv2.0", 256, 512, 1, 1)
    head = "regressor.hand_regHead"
    shapes |= {f"{head}.betas": (21, 1), f"{head}.uu": (32, 32), f"{head}.vv": (32, 32)}
    places = [(level, place) for level in range(4) for place in range(3)] + [(0, 3)]
    for place in [f"hg.0.hg.{level}.{place}.0" for level, place in places] + ["res.0.0"]:
        residual(f"{head}.{place}", ("bn1", "bn2", "bn3"))
    layer(f"{head}.fc.0.block.0", 256, 256, 1, 1)
    norm(f"{head}.fc.0.block.1", 256)
    layer(f"{head}.score.0", 21, 256, 1, 1)
    layer("regressor.hand_Encoder.heatmap_conv", 256, 21, 1, 1)
    layer("regressor.hand_Encoder.encoding_conv", 256, 256, 1, 1)
    for index in range(8):
        residual(f"regressor.hand_Encoder.reg.{index}", ("bn", "bn1", "bn2"))
    mano = "regressor.mano_regHead"
    layer(f"{mano}.mano_base_layer.0", 1024, 1024)
    layer(f"{mano}.mano_base_layer.2", 512, 1024)
    layer(f"{mano}.pose_reg", 96, 512)
    layer(f"{mano}.shape_reg", 10, 512)
    arrays: dict[str, tuple[int, ...]] = {
        "betas": (1, 10),
        "shapedirs": (778, 3, 10),
        "posedirs": (778, 3, 135),
        "v_template": (1, 778, 3),
        "J_regressor": (16, 778),
        "weights": (778, 16),
        "faces": (1538, 3),
        "hands_mean": (1, 45),
        "selected_comps": (6, 45),
    }
    shapes |= {f"{mano}.mano_layer.th_{name}": shape for name, shape in arrays.items()}
    return shapes | {
        "fitting_loss.data_weight": (),
        "fitting_loss.init_joints_idxs": (21,),
        "fitting_loss.depth_loss_weight": (),
    }


def _resnet50_shapes() -> dict[str, tuple[int, ...]]:
    """torchvision's resnet50().state_dict(), 320 entries."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            convolutions = ((width, channels, 1), (width, width, 3), (4 * width, width, 1))
            for index, (out, into, size) in enumerate(convolutions, start=1):
                shapes[f"{name}.conv{index}.weight"] = (out, into, size, size)
                norm(f"{name}.bn{index}", out)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            channels = 4 * width
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def _values(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Cheap values of the right kinds; each entry differs from the others."""
    entries = {}
    for number, (name, shape) in enumerate(shapes.items()):
        if name.endswith(("num_batches_tracked", "th_faces", "init_joints_idxs")):
            entries[name] = torch.full(shape, number % 778)
        elif name.endswith("th_weights"):
            entries[name] = torch.full(shape, 1 / 16)
        else:
            entries[name] = torch.full(shape, 0.5 / (number + 1))
    return entries


@pytest.fixture(scope="module")
def published_entries() -> dict[str, Tensor]:
    return _values(_published_shapes())


def _checkpoint(entries: dict[str, Tensor]) -> bytes:
    return _saved({"epoch": 79, "network": {f"module.{name}": tensor for name, tensor in entries.items()}})


@pytest.mark.skipif(not PARITY.is_dir(), reason="the reference's parity folder is not here")
def test_the_layout_these_tests_write_is_the_recorded_one() -> None:
    recorded = json.loads((PARITY / "official_state_dict.json").read_text())
    recorded = recorded["entries"] if isinstance(recorded, dict) else recorded
    shapes = {entry["key"].removeprefix("module."): tuple(entry["shape"]) for entry in recorded}
    assert _published_shapes() == shapes
    assert len(shapes) == 904


@pytest.mark.parametrize("fitting", [False, True])
def test_a_published_checkpoint_fills_the_release_and_brings_its_hand(
    published_entries: dict[str, Tensor], fitting: bool
) -> None:
    entries = {n: t for n, t in published_entries.items() if fitting or not n.startswith("fitting_loss")}
    assert len(entries) == (904 if fitting else 901)
    weights = load_weights(_checkpoint(entries), None)
    assert (weights.config, weights.source, weights.trained) == (PRESETS["release"], "published", True)
    assert weights.notes == {"epoch": "79"}
    assert not weights.network.training
    assert weights.hand_model is not None
    assert weights.hand_model_name == weights.hand_model.name
    assert weights.hand_model.v_template.shape == (778, 3)
    assert weights.hand_model.hands_components.shape == (6, 45)
    state = weights.network.state_dict()
    pairs = {
        "regressor.blocks.3.bn2.weight": "regressor.hand_Encoder.reg.3.bn1.weight",
        "injection.blocks.1.second_key.bias": "FIT.layers.1.encode_key2.bias",
        "heatmap_head.hourglass.bottom.conv1.weight": "regressor.hand_regHead.hg.0.hg.0.3.0.conv1.weight",
        "backbone.merge4.lateral.weight": "backbone.latlayer1.weight",
    }
    for ours, theirs in pairs.items():
        torch.testing.assert_close(state[ours], published_entries[theirs], rtol=0, atol=0)


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_is_known_by_what_it_holds(old: bool) -> None:
    stream, array = io.BytesIO(), io.BytesIO()
    torch.save({"network": {"weight": torch.zeros(2)}}, stream, _use_new_zipfile_serialization=not old)
    assert is_checkpoint(stream.getvalue())
    np.savez(array, v_template=np.zeros((778, 3)))
    for other in (array.getvalue(), pickle.dumps({"v_template": 1}, protocol=2), b"PK\x03\x04", b""):
        assert not is_checkpoint(other)


def test_a_checkpoints_hand_is_read_without_its_network(published_entries: dict[str, Tensor]) -> None:
    hand = {n: t for n, t in published_entries.items() if "mano_layer" in n}
    found, whole = (
        carried_hand_model(_checkpoint(hand)),
        load_weights(_checkpoint(published_entries)).hand_model,
    )
    assert found is not None
    assert whole is not None
    assert found.name == whole.name
    assert carried_hand_model(_checkpoint({"weight": torch.zeros(2)})) is None


def test_a_bare_state_dict_of_published_names_needs_no_hand(published_entries: dict[str, Tensor]) -> None:
    entries = {n: t for n, t in published_entries.items() if "mano_layer" not in n}
    weights = load_weights(_saved(entries), PRESETS["release"])
    assert (weights.hand_model, weights.hand_model_name) == (None, None)


def test_what_does_not_fit_is_named_in_one_line(published_entries: dict[str, Tensor]) -> None:
    entries = dict(published_entries)
    del entries["FIT.layers.0.norm2.weight"]
    entries["backbone.layer9.weight"] = torch.zeros(1)
    entries["SET.layers.0.norm2.bias"] = torch.zeros(3)
    for index in range(8):
        entries[f"regressor.hand_Encoder.reg.{index}.conv1.bias"] = torch.full((128,), float("nan"))
    with pytest.raises(ModelError) as refusal:
        load_weights(_checkpoint(entries), None)
    message = str(refusal.value)
    assert "injection.blocks.0.norm.weight is missing" in message
    assert "SET.layers.0.norm2.bias is 3, not 256" in message
    assert "and 5 more" in message
    assert "\n" not in message


def test_a_published_checkpoint_is_no_tiny_network(published_entries: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match="holds the model 'release', not 'tiny'"):
        load_weights(_checkpoint(published_entries), TINY)


@pytest.mark.parametrize("half", [False, True])
def test_saved_weights_come_back_with_their_config_and_hand(half: bool) -> None:
    network = random_weights(TINY, seed=3).network
    data = save_weights(network, TINY, hand_model_name="synthetic-v1", notes={"steps": "10"}, half=half)
    assert len(data) < (15e6 if half else 30e6)
    again = save_weights(network, TINY, hand_model_name="synthetic-v1", notes={"steps": "10"}, half=half)
    assert data == again
    weights = load_weights(data, None)
    assert (weights.config, weights.hand_model_name, weights.notes) == (TINY, "synthetic-v1", {"steps": "10"})
    assert (weights.source, weights.trained, weights.hand_model) == ("handocc", True, None)
    images = _images(TINY.input_size)
    with torch.inference_mode():
        ours, theirs = weights.network(images), network(images)
    torch.testing.assert_close(ours.joints_2d, theirs.joints_2d, rtol=0, atol=1e-3 if half else 0)


def test_saved_weights_of_another_model_say_what_differs() -> None:
    data = save_weights(random_weights(TINY, seed=0).network, TINY, hand_model_name=None, notes={})
    with pytest.raises(ModelError, match=r"fit_depth=2 \(asked: 1\)"):
        load_weights(data, dataclasses.replace(TINY, fit_depth=1))


def test_weights_of_another_ablation_fill_what_fits() -> None:
    plain = random_weights(ablated(TINY, ["neck=identity"]), 1)
    data = save_weights(plain.network, plain.config, hand_model_name=None, notes={})
    adapted, untrained = adapted_weights(data, TINY, 2)
    assert untrained == ("injection", "enhancement", "enhancement_norm")
    assert adapted.config == TINY
    fresh = random_weights(TINY, 2).network.state_dict()
    theirs = plain.network.state_dict()
    for name, tensor in adapted.network.state_dict().items():
        assert torch.equal(tensor, theirs.get(name, fresh[name])), name


def test_weights_of_which_nothing_fits_are_refused(published_entries: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match="no part of the model 'tiny'"):
        adapted_weights(_saved(published_entries), dataclasses.replace(TINY, necessity="convolutions"), 0)


def test_our_own_bare_state_dict_needs_its_config() -> None:
    network = random_weights(TINY, seed=0).network
    data = _saved(network.state_dict())
    with pytest.raises(ModelError, match="choose --model"):
        load_weights(data, None)
    assert load_weights(data, TINY).source == "state_dict"


def test_random_weights_depend_on_seed_and_config_alone_and_leave_the_random_state() -> None:
    state = torch.random.get_rng_state()
    first, second, other = (random_weights(TINY, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.sha256 == second.sha256 != other.sha256
    assert not first.trained
    parameters = zip(first.network.parameters(), second.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)


@pytest.mark.parametrize("preset", ["tiny", "release"])
def test_an_untrained_hand_rests_in_the_middle_of_its_crop(preset: str) -> None:
    weights = random_weights(PRESETS[preset], seed=0)
    with torch.inference_mode():
        output = weights.network(_images(weights.config.input_size))
    assert output.axis_angle.abs().max() < 1
    assert output.betas.abs().max() < 1
    assert (output.joints_2d - 0.5).abs().max() < 0.1


_executed: list[str] = []


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (_execute, ("code of the file",))


def _execute(what: str) -> None:
    _executed.append(what)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is text",
        b"PK\x03\x04 a broken archive",
        b"\x80\x02}q\x00.",
        pickle.dumps(_Attack()),
        _saved({"network": _Attack()}),
        _saved([torch.zeros(2)]),
        _saved({"network": {}}),
        _saved({"epoch": 3}),
        b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
        b"\x08\x00\x00\x00\x00\x00\x00\x00{\"a\": 1}",
    ],
    ids=["empty", "text", "broken zip", "empty pickle", "attack", "attack in zip", "list", "nothing", "number",
         "safetensors of others", "safetensors broken"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"^weights: .+$") as refusal:
        load_weights(data, TINY)
    assert "\n" not in str(refusal.value)
    assert _executed == []


def test_a_cut_checkpoint_is_refused() -> None:
    data = _saved(random_weights(TINY, seed=0).network.state_dict())
    own = save_weights(random_weights(TINY, seed=0).network, TINY, hand_model_name=None, notes={})
    for whole in (data, own):
        for share in (0.01, 0.3, 0.9, 0.9999):
            with pytest.raises(ModelError, match="weights: "):
                load_weights(whole[: int(len(whole) * share)], TINY)


class _Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_an_imagenet_resnet50_fills_the_trunk(preset: str) -> None:
    network = build_network(PRESETS[preset])
    entries = _values(_resnet50_shapes())
    load_imagenet_resnet50(
        _Wrapped(network), _saved({"state_dict": {f"module.{n}": t for n, t in entries.items()}})
    )
    trunk = network.backbone.trunk.state_dict()
    assert all(torch.equal(trunk[n], t) for n, t in entries.items() if not n.startswith("fc."))


def test_an_old_imagenet_file_without_counters_fills_the_trunk() -> None:
    network = build_network(PRESETS["release"])
    entries = {n: t for n, t in _values(_resnet50_shapes()).items() if not n.endswith("num_batches_tracked")}
    stream = io.BytesIO()
    torch.save(entries, stream, _use_new_zipfile_serialization=False)
    load_imagenet_resnet50(network, stream.getvalue())
    assert torch.equal(network.backbone.trunk.state_dict()["conv1.weight"], entries["conv1.weight"])


def test_another_resnet_does_not_fill_the_trunk() -> None:
    with pytest.raises(ModelError, match=r"does not fit an ImageNet ResNet-50 .* and \d+ more"):
        load_imagenet_resnet50(build_network(TINY), _saved(_values(_resnet50_shapes())))
