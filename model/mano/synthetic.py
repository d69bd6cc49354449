"""The procedural hand: a hand made by code in MANO's own format, which stands in wherever MANO's file is absent.

Its shape, mesh and topology are its own. The rooms behind it: `synthetic_skeleton` (bones), `synthetic_body` (flesh
around them), `synthetic_surface` (the mesh laid over it), `synthetic_skinning` (how it follows the bones) and
`synthetic_shape` (how hands differ).
"""

import pickle
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.mano.asset import HandModel, Side, mirrored
from model.mano.joints import FINGERTIP_VERTICES, MANO_PARENTS
from model.mano.poses import mean_pose, synergies
from model.mano.synthetic_shape import joint_shifts, shape_directions
from model.mano.synthetic_skinning import joint_regressor, pose_correctives, skinning_weights
from model.mano.synthetic_surface import skin

NAME: Final = "synthetic-v1"


@cache
def synthetic_hand(side: Side = "right") -> HandModel:
    """The procedural hand of one side: an adult's, 19 cm long; the left one is the exact mirror of the right.

    Made anew in every process (half a second), the same on every machine up to the last bits of float arithmetic;
    within a process the arrays are shared between calls, so nobody may write into them.
    """
    return _right_hand() if side == "right" else replace(mirrored(synthetic_hand("right")), name=NAME)


def _right_hand() -> HandModel:
    shapedirs = shape_directions()
    return HandModel(
        name=NAME,
        side="right",
        v_template=skin().vertices.astype(np.float32),
        shapedirs=shapedirs.astype(np.float32),
        posedirs=pose_correctives().astype(np.float32),
        J_regressor=joint_regressor(shapedirs, joint_shifts()).astype(np.float32),
        weights=skinning_weights().astype(np.float32),
        faces=skin().faces.astype(np.int64),
        hands_mean=mean_pose().astype(np.float32),
        hands_components=synergies().astype(np.float32),
        fingertip_vertices=FINGERTIP_VERTICES["manopth"],
    )


def export_mano_pickle(model: HandModel) -> bytes:
    """A pickle in the layout of MANO's own files, for tools that read those, such as `smplx.MANO`.

    Plain numpy arrays, float64 and uint32 as in MANO v1.2, protocol 2. smplx takes the side from the file's name,
    which must hold RIGHT or LEFT.
    """

    def double(values: NDArray[np.float32]) -> NDArray[np.float64]:
        return values.astype(np.float64)

    content = {
        "v_template": double(model.v_template),
        "shapedirs": double(model.shapedirs),
        "posedirs": double(model.posedirs),
        "J_regressor": double(model.J_regressor),
        "J": double(model.J_regressor) @ double(model.v_template),
        "weights": double(model.weights),
        "f": model.faces.astype(np.uint32),
        "kintree_table": np.array([MANO_PARENTS, range(16)], dtype=np.int64) % 2**32,
        "hands_components": double(model.hands_components),
        "hands_mean": double(model.hands_mean),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    return pickle.dumps(content, protocol=2)
