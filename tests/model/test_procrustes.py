"""The alignment for training against the one that the reported figures are computed by."""

import pytest
import torch

from model.procrustes import aligned_distances
from pipeline.metrics.alignment import procrustes


@pytest.mark.parametrize("thickness", [0.03, 0.001, 0.0])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_the_distances_are_those_of_the_metric_also_for_flat_hands_and_mirrored_ones(
    thickness: float, noise: float
) -> None:
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(64, *shape, generator=random, dtype=torch.float64)

    found = drawn(21, 3) * torch.tensor([0.05, 0.03, thickness])
    # Half of these matrices mirror, which no rotation can follow.
    wanted = 1.7 * found @ torch.linalg.qr(drawn(3, 3))[0] + noise * drawn(21, 3) + drawn(1, 3)
    expected = (procrustes(found, wanted) - wanted).norm(dim=2)
    torch.testing.assert_close(aligned_distances(found, wanted), expected, rtol=1e-4, atol=1e-7)


def test_points_in_one_place_are_as_far_as_they_are_from_the_centre() -> None:
    wanted = torch.tensor([[[1.0, 0, 0], [-1, 0, 0]]])
    torch.testing.assert_close(aligned_distances(torch.zeros(1, 2, 3), wanted), torch.ones(1, 2))
