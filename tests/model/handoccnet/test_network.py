import dataclasses

import pytest
import torch

from model.config import PRESETS, ModelConfig, ablation_configs
from model.errors import ModelError
from model.handoccnet.network import HandOutput, build_network


def _images(config: ModelConfig, batch: int) -> torch.Tensor:
    size = (batch, 3, config.input_size, config.input_size)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def _assert_sound(output: HandOutput, config: ModelConfig, batch: int) -> None:
    cells = config.feature_size
    shapes = {
        "rotations": (batch, 16, 3, 3),
        "axis_angle": (batch, 16, 3),
        "betas": (batch, 10),
        "heatmaps": (batch, 21, cells, cells),
        "joints_2d": (batch, 21, 2),
        "necessity_map": (batch, 1, cells, cells),
        "predicted_log_errors": (batch, 22 if config.error_head else 0),
    }
    assert {name: tuple(value.shape) for name, value in output._asdict().items()} == shapes
    assert all(torch.isfinite(value).all() for value in output)
    torch.testing.assert_close(output.heatmaps.sum((2, 3)), torch.ones(batch, 21))
    identity = output.rotations @ output.rotations.transpose(2, 3)
    torch.testing.assert_close(identity, torch.eye(3).expand(batch, 16, 3, 3), rtol=0, atol=1e-5)


def _trains(config: ModelConfig) -> None:
    """Build, run forward in training mode and backward, and find a gradient at every parameter."""
    torch.manual_seed(0)
    network = build_network(config).train()
    # Where the published initialisation is all but silent, a gradient would be lost in float32.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    output = network(_images(config, 2))
    _assert_sound(output, config, 2)
    loss = output.joints_2d.square().sum() + output.betas.square().sum() + output.axis_angle[:, 0].sum()
    (loss + output.rotations[:, :, 0].sum() + output.predicted_log_errors.sum()).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize("row", ablation_configs("tiny"))
def test_every_ablation_trains_in_miniature(row: str) -> None:
    _trains(ablation_configs("tiny")[row])


@pytest.mark.parametrize("row", ablation_configs("paper"))
def test_every_ablation_of_the_paper_trains_when_made_small(row: str) -> None:
    _trains(
        dataclasses.replace(
            ablation_configs("paper")[row],
            input_size=128,
            feature_size=16,
            channels=32,
            trunk_width=8,
            trunk_blocks=(1, 1, 1, 1),
            regressor_channels=32,
            head_widths=(64, 32),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "release"])
def test_the_full_networks_train(preset: str) -> None:
    _trains(PRESETS[preset])


def test_the_release_has_the_published_parameters_but_the_dead_convolution() -> None:
    network = build_network(PRESETS["release"])
    dead_convolution = 256 * 256 * 9 + 256
    assert sum(p.numel() for p in network.parameters()) == 39_319_352 - dead_convolution


def test_tiny_fits_fifteen_megabytes_in_half_precision() -> None:
    network = build_network(PRESETS["tiny"])
    assert sum(p.numel() for p in network.parameters()) <= 7_000_000


def test_in_tiny_growing_features_do_not_saturate_the_attention() -> None:
    torch.manual_seed(0)
    network = build_network(PRESETS["tiny"]).train()
    images = torch.rand(4, 3, 128, 128)
    with torch.no_grad():
        before = network.feature_maps(images).enhanced
        network.backbone.smooth.weight.mul_(1000)
        network.backbone.smooth.bias.mul_(1000)
        after = network.feature_maps(images).enhanced
    torch.testing.assert_close(after, before, rtol=0, atol=0.01)


@pytest.mark.parametrize("preset", ["tiny", "release"])
def test_bfloat16_changes_little_and_keeps_the_outputs_float32(preset: str) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(PRESETS[preset], input_size=128, feature_size=16)
    network = build_network(config).train()
    images = _images(config, 4)
    with torch.no_grad():
        # As they begin, the published network's weights are nearly silent, whatever the precision.
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network(images)
    network.eval()
    with torch.inference_mode():
        exact = network(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(images)
    assert (exact.joints_2d - 0.5).abs().max() > 0.03
    assert {half.rotations.dtype, half.axis_angle.dtype, half.betas.dtype, half.joints_2d.dtype} == {
        torch.float32
    }
    apart = (half.joints_2d - exact.joints_2d).abs()
    # The worst of 168 numbers depends on the order of sums, which CPUs with and without bfloat16 do not share.
    assert apart.mean() < 0.01
    assert apart.max() < 0.05
    assert (half.betas - exact.betas).abs().max() < 0.1


def test_the_forward_is_one_graph_for_the_compiler() -> None:
    network = build_network(PRESETS["tiny"]).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    images = _images(PRESETS["tiny"], 2)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), network(images))


def test_a_network_without_fit_says_so_when_asked_for_its_correlation() -> None:
    config = ablation_configs("tiny")["table1/set"]
    with pytest.raises(ModelError, match="no FIT"):
        build_network(config).correlation(_images(config, 1), query_cells=[(0, 0)])


def test_a_cell_outside_the_map_is_refused() -> None:
    config = PRESETS["tiny"]
    with pytest.raises(ModelError, match=r"\(16, 0\) is outside the 16×16"):
        build_network(config).eval().correlation(_images(config, 1), query_cells=[(16, 0)])
