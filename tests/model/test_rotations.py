import math

import pytest
import torch

from model.rotations import axis_angle_to_rotation, rotation_to_axis_angle, six_d_to_rotation


def _axis_angles(largest: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    angles = largest * torch.rand(200, 1, generator=generator, dtype=torch.float64)
    return axes / axes.norm(dim=1, keepdim=True) * angles


def test_an_axis_angle_up_to_half_a_turn_survives_the_matrix() -> None:
    axis_angle = _axis_angles(math.pi - 1e-3)
    again = rotation_to_axis_angle(axis_angle_to_rotation(axis_angle))
    torch.testing.assert_close(again, axis_angle, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "axis", [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.6, 0, -0.8], [0.5, -0.5, 0.5**0.5]]
)
def test_half_a_turn_about_any_axis_is_told_from_its_matrix(axis: list[float]) -> None:
    rotation = axis_angle_to_rotation(math.pi * torch.tensor(axis, dtype=torch.float64))
    again = rotation_to_axis_angle(rotation)
    assert again.norm().item() == pytest.approx(math.pi, abs=1e-7)
    torch.testing.assert_close(axis_angle_to_rotation(again), rotation, rtol=0, atol=1e-7)


def test_a_turn_beyond_half_comes_back_as_the_shorter_way_round() -> None:
    axis_angle = torch.tensor([0.0, 0.0, 1.5 * math.pi])
    shorter = rotation_to_axis_angle(axis_angle_to_rotation(axis_angle))
    torch.testing.assert_close(shorter, torch.tensor([0.0, 0.0, -0.5 * math.pi]))


def test_six_numbers_give_the_rotation_whose_columns_they_are_at_any_length() -> None:
    rotation = axis_angle_to_rotation(_axis_angles(math.pi))
    six_d = torch.cat((3 * rotation[..., 0], 0.1 * rotation[..., 1] + rotation[..., 0]), dim=-1)
    torch.testing.assert_close(six_d_to_rotation(six_d), rotation, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_finite_at_rest(dtype: torch.dtype) -> None:
    six_d = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=dtype, requires_grad=True)
    rest = torch.zeros(3, dtype=dtype, requires_grad=True)
    total = rotation_to_axis_angle(six_d_to_rotation(six_d)).sum() + axis_angle_to_rotation(rest).sum()
    total.backward()
    for leaf in (six_d, rest):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
