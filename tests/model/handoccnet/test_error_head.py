"""What the network says of its own errors: that learning it leaves the rest alone, and that it can be learnt."""

import torch

from model.config import preset
from model.handoccnet.error_head import ErrorHead, joint_evidence
from model.handoccnet.heatmaps import Heatmaps
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


def test_a_joints_evidence_is_read_where_the_joint_is_and_from_the_shape_of_its_heatmap() -> None:
    heatmaps = torch.zeros(1, 2, 4, 8)
    heatmaps[0, 0, 1, [2, 6]] = 0.5
    heatmaps[0, 1, 3, 1] = 1
    joints_2d = torch.tensor([[[4.5 / 8, 1.5 / 4], [1.5 / 8, 3.5 / 4]]])
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    encoding = torch.stack([rows, columns])[None]
    evidence = joint_evidence(Heatmaps(encoding, heatmaps, joints_2d), columns[None, None] / 10)
    row, column, necessity, _, _, own, spread_x, spread_y, size, x, y = evidence.unbind(2)
    torch.testing.assert_close(torch.stack([row, column], 2), torch.tensor([[[1.0, 4], [3, 1]]]))
    torch.testing.assert_close(necessity, torch.tensor([[0.4, 0.1]]))
    torch.testing.assert_close(own, (torch.tensor([[0, 1.0]]) + 1e-4).log())
    torch.testing.assert_close(spread_x, torch.tensor([[2 / 8, 0]]))
    torch.testing.assert_close(spread_y, torch.zeros(1, 2), atol=1e-3, rtol=0)
    from_centre = torch.stack([x, y], 2)
    torch.testing.assert_close(from_centre, torch.tensor([[[1.5 / 8, -1 / 4], [-1.5 / 8, 1 / 4]]]))
    torch.testing.assert_close(size, from_centre.norm(dim=2))
