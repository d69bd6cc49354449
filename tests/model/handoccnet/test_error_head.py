"""What the network says of its own errors: that learning it leaves the rest alone, and that it can be learnt."""

import torch

from model.config import preset
from model.handoccnet.error_head import ErrorHead
from model.handoccnet.network import build_network


def test_it_reaches_its_own_parameters_alone() -> None:
    torch.manual_seed(0)
    network = build_network(preset("tiny")).train()
    network(torch.rand(2, 3, 128, 128)).predicted_log_errors.sum().backward()
    reached = {
        name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None
    }
    assert reached == {"error_head"}


def test_it_learns_which_joints_are_wrong_and_so_which_hands() -> None:
    torch.manual_seed(0)
    head = ErrorHead(preset("tiny")).train()
    optimiser = torch.optim.Adam(head.parameters(), lr=2e-3)

    def made(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        joints = torch.randn(count, 21, head.joint.in_features)
        hands = torch.randn(count, head.hand.in_features)
        errors_mm = 10 * torch.exp(0.5 * joints[..., 7] + 0.5 * hands[:, 3:4])
        both = torch.cat([errors_mm.mean(1, keepdim=True), errors_mm], dim=1)
        return joints, hands, both

    for _ in range(100):
        joints, hands, errors_mm = made(64)
        loss = (head.judge(joints, hands) - errors_mm.log()).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    joints, hands, errors_mm = made(200)
    with torch.no_grad():
        predicted = head.judge(joints, hands).exp()
    assert torch.corrcoef(torch.stack([predicted[:, 0], errors_mm[:, 0]]))[0, 1] > 0.5
    assert torch.corrcoef(torch.stack([predicted[:, 1:].flatten(), errors_mm[:, 1:].flatten()]))[0, 1] > 0.5
