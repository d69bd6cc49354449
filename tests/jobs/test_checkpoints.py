"""What a checkpoint holds of one machine goes on on another."""

import copy

import torch
from torch import nn

from jobs.training.checkpoints import refill


def test_the_state_of_an_optimiser_on_a_gpu_goes_on_on_a_cpu() -> None:
    network = nn.Linear(4, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["fused"] = True

    other = copy.deepcopy(network)
    resumed = torch.optim.Adam(other.parameters(), lr=0.1)
    refill(resumed, state)
    assert resumed.param_groups[0]["fused"] is None
    for net, adam in ((network, optimizer), (other, resumed)):
        adam.zero_grad()
        net(torch.ones(2, 4)).square().sum().backward()
        adam.step()
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
