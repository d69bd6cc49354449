"""What training makes of a pseudo-label's weight."""

import functools
from pathlib import Path

import pytest
import torch

from model.augmentation import AugmentationRanges
from model.config import preset
from model.handoccnet.network import HandOutput
from model.losses import LOSSES, losses
from model.mano.layer import ManoLayer
from model.mano.synthetic import synthetic_hand
from pipeline.training.samples import concatenate, training_sample
from pipeline.training.targets import to_targets
from tests.pipeline.pseudo_labels.made import pseudo_label


def test_training_takes_a_hands_weight_and_a_weight_of_0_takes_its_influence(
    annotated: Path, tmp_path: Path
) -> None:
    made = pseudo_label(annotated, tmp_path / "out", frames="crop")
    read = functools.partial(training_sample, crop_size=64, rng=None, ranges=AugmentationRanges())
    member, label = next((name, item) for name, item in made.labels.items() if len(item["hands"]) == 1)
    other, another = next((name, item) for name, item in made.labels.items() if name != member)
    samples = read(member, made.pictures[member], label, 0)
    assert samples.weight[0] == pytest.approx(label["hands"][0]["weight"])
    label["hands"][0]["weight"] = 0.0
    mute = read(member, made.pictures[member], label, 0)
    spoken = read(other, made.pictures[other], another, 0)
    hand_model = ManoLayer(synthetic_hand())
    targets = to_targets(concatenate([mute, spoken]), torch.device("cpu"))
    torch.manual_seed(0)
    size = preset("tiny")
    output = _random_output(2, size.input_size // 8)
    total = losses(output, targets, hand_model, LOSSES["small"])["total"]
    total.backward()
    for value in output:
        if value.grad is not None:
            assert not value.grad[0].any(), "it pulls at the network"
    assert any(value.grad is not None and value.grad[1].any() for value in output)
    moved = targets._replace(
        joints_2d_B21x2=targets.joints_2d_B21x2 + torch.tensor([0.1, 0.0])[:, None, None],
        betas_B10=targets.betas_B10 + torch.tensor([[1.0], [0.0]]),
    )
    again = losses(_random_output(2, size.input_size // 8), moved, hand_model, LOSSES["small"])["total"]
    assert again.item() == pytest.approx(total.item())


def _random_output(count: int, cells: int) -> HandOutput:
    made = torch.Generator().manual_seed(1)
    values = {
        "heatmaps": torch.softmax(torch.randn(count, 21, cells * cells, generator=made), -1).view(
            count, 21, cells, cells
        ),
        "joints_2d": torch.rand(count, 21, 2, generator=made),
        "rotations": torch.linalg.qr(torch.randn(count, 16, 3, 3, generator=made))[0],
        "axis_angle": torch.randn(count, 16, 3, generator=made) * 0.3,
        "betas": torch.randn(count, 10, generator=made),
        "necessity_map": torch.rand(count, 1, cells, cells, generator=made),
        "predicted_log_errors": 2 + torch.rand(count, 22, generator=made),
    }
    return HandOutput(**{name: values[name].detach().requires_grad_() for name in HandOutput._fields})
