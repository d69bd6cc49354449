"""A micro-batch as a CUDA graph gives what it gives step by step. Needs a GPU."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from jobs.training.captured import CapturedGradients

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def test_gradients_losses_and_statistics_are_those_of_single_kernels() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1)).cuda()

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        total = (network(inputs["x"]) - inputs["y"]).square().mean()
        total.backward()
        return {"total": total.detach()}

    first, second = ({"x": torch.randn(32, 8).cuda(), "y": torch.randn(32, 1).cuda()} for _ in range(2))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    captured = CapturedGradients(compute, first, network)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)

    losses = [captured(inputs)["total"].item() for inputs in (first, second)]
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    statistics = [buffer.clone() for buffer in network.buffers()]
    network.load_state_dict(before, strict=False)
    network.zero_grad(set_to_none=False)
    assert losses == pytest.approx([compute(inputs)["total"].item() for inputs in (first, second)])
    # Two micro-batches add up.
    assert len(gradients) == 6
    torch.testing.assert_close(gradients, [parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(statistics, list(network.buffers()))
