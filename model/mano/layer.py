"""MANO as a torch module: rotations and betas in, vertices and joints out, skinned by smplx.

B batch, V = 778 vertices, 16 = MANO's joints, 21 = joints in the simple order (`model.mano.joints`).
"""

from typing import NamedTuple

import numpy as np
import torch
from smplx.lbs import lbs
from torch import Tensor, nn

from model.mano.asset import HandModel
from model.mano.joints import MANO_PARENTS, SIMPLE_FROM_HO3D


class ManoOutput(NamedTuple):
    """A posed hand in the MANO frame: metres, turned about the wrist, neither centred nor translated."""

    vertices_BV3: Tensor
    joints_B21x3: Tensor  # kinematic joints and five tip vertices
    joint_transforms_B16x44: Tensor  # each joint's global rotation and position, in MANO's order


class ManoLayer(nn.Module):
    """Poses one hand model.

    Its buffers are not persistent: licensed arrays never enter a state dict. It computes in `dtype`, under
    autocast too.
    """

    # The types that register_buffer hides from a checker.
    hands_mean: Tensor  # (45,) axis-angle
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    weights: Tensor
    fingertip_vertices: Tensor
    simple_from_ho3d: Tensor
    parents: Tensor

    def __init__(self, hand_model: HandModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()

        def constant(name: str, value: Tensor) -> None:
            self.register_buffer(name, value, persistent=False)

        for name in ("v_template", "shapedirs", "J_regressor", "weights", "hands_mean"):
            constant(name, torch.tensor(getattr(hand_model, name), dtype=dtype))
        # smplx multiplies the 135 pose features by a (135, 778 · 3) matrix.
        pose_basis = hand_model.posedirs.reshape(-1, hand_model.posedirs.shape[-1]).T
        constant("posedirs", torch.tensor(np.ascontiguousarray(pose_basis), dtype=dtype))
        constant("fingertip_vertices", torch.tensor(hand_model.fingertip_vertices))
        constant("simple_from_ho3d", torch.tensor(SIMPLE_FROM_HO3D))
        constant("parents", torch.tensor(MANO_PARENTS))

    def forward(self, rotations_B16x33: Tensor, betas_B10: Tensor) -> ManoOutput:
        """Pose the hand by absolute rotation matrices: 0 global, 1 to 15 with the mean pose included."""
        dtype = self.v_template.dtype
        with torch.autocast(rotations_B16x33.device.type, enabled=False):
            rotations_B16x33 = rotations_B16x33.to(dtype).contiguous()  # smplx takes views of it
            vertices_BV3, mano_joints_B16x3 = lbs(
                betas_B10.to(dtype),
                rotations_B16x33,
                self.v_template,
                self.shapedirs,
                self.posedirs,
                self.J_regressor,
                _Parents(self.parents),
                self.weights,
                pose2rot=False,
            )
            tips_B5x3 = vertices_BV3[:, self.fingertip_vertices]
            joints_B21x3 = torch.cat([mano_joints_B16x3, tips_B5x3], dim=1)[:, self.simple_from_ho3d]
            transforms = _rigid_transforms(_global_rotations(rotations_B16x33), mano_joints_B16x3)
        return ManoOutput(vertices_BV3, joints_B21x3, transforms)

    def absolute_pose(self, offsets_B15x3: Tensor) -> Tensor:
        """Add the mean pose to finger rotations given as offsets from it.

        Axis-angle vectors are added, as in the published network and in smplx's `flat_hand_mean=False`;
        that is not the composition of the two rotations.
        """
        return offsets_B15x3 + self.hands_mean.view(15, 3)


class _Parents:
    """MANO's parents as smplx reads them: number by number, and as an index of all but the first.

    A tensor on the device would be waited for at every number, one on the host be copied at every index; neither can
    be part of a CUDA graph.
    """

    shape = (len(MANO_PARENTS),)

    def __init__(self, index: Tensor) -> None:
        self._index = index

    def __getitem__(self, place: int | slice) -> int | Tensor:
        return MANO_PARENTS[place] if isinstance(place, int) else self._index[place]


def wrist_relative(output: ManoOutput) -> tuple[Tensor, Tensor]:
    """The vertices and joints with the wrist at the origin."""
    wrist_B13 = output.joints_B21x3[:, :1]
    return output.vertices_BV3 - wrist_B13, output.joints_B21x3 - wrist_B13


def _global_rotations(rotations_B16x33: Tensor) -> Tensor:
    """Chain each joint's rotation onto its parents', five fingers at once (MANO orders finger by finger)."""
    wrist = rotations_B16x33[:, :1]
    fingers = rotations_B16x33[:, 1:].reshape(-1, 5, 3, 3, 3)
    first = wrist @ fingers[:, :, 0]
    second = first @ fingers[:, :, 1]
    third = second @ fingers[:, :, 2]
    return torch.cat([wrist, torch.stack([first, second, third], dim=2).flatten(1, 2)], dim=1)


def _rigid_transforms(rotations_BJ33: Tensor, positions_BJ3: Tensor) -> Tensor:
    upper = torch.cat([rotations_BJ33, positions_BJ3.unsqueeze(-1)], dim=-1)
    # Made on the device: numbers of the host would be waited for, and cannot be part of a CUDA graph.
    last_row = torch.eye(4, dtype=upper.dtype, device=upper.device)[3:].expand(*upper.shape[:2], 1, 4)
    return torch.cat([upper, last_row], dim=-2)
