"""What each benchmark's own evaluation does, as values."""

from dataclasses import dataclass
from typing import Final

from model.mano.joints import JOINT_NAMES

WRIST: Final = JOINT_NAMES.index("wrist")
MIDDLE_1: Final = JOINT_NAMES.index("middle_1")


@dataclass(frozen=True)
class Protocol:
    """How one benchmark measures, with joints in the simple order.

    `reflections` says whether the similarity alignment (PA-) may mirror the prediction, `epsilon` what it adds
    to the norms that it divides by, in metres. `root` is the joint laid on the truth's before errors that are
    not aligned otherwise. `scale_bone`, where a protocol has it, are the two joints whose distance is made the
    true one in the alignment by scale and translation (ST-), after which the first lies on the truth's.
    AUC is the area under the share of points within t (PCK), by trapezoids at `auc_steps` values of t evenly
    spaced from 0 to `auc_limit_mm`, divided by the limit.
    """

    name: str
    reflections: bool
    epsilon: float = 0.0
    root: int = WRIST
    scale_bone: tuple[int, int] | None = None
    auc_limit_mm: float = 50.0
    auc_steps: int = 100


# Which joints and points they take, and how they align, is read from:
# ho3d: github.com/shreyashampali/ho3d, eval.py (orthogonal_procrustes of SciPy; its joints 0 and 4).
# freihand: github.com/lmb-freiburg/freihand, eval.py; joint 9 is the root of its tools.
# dexycb: github.com/NVlabs/dex-ycb-toolkit, hpe_eval.py, which aligns as FreiHAND does, but in millimetres.
# dexycb-paper: github.com/namepllet/HandOccNet, transforms.py: how the DexYCB tables of the paper were made.
# fpha: the paper alone, section 4.2 (after Procrustes alignment); taken to be the authors' own as well.
# The wrist of the truth is given with HO-3D's evaluation images, and the authors add it to the prediction.
PROTOCOLS: Final[dict[str, Protocol]] = {
    protocol.name: protocol
    for protocol in (
        Protocol("ho3d-v2", reflections=True, epsilon=1e-8, scale_bone=(WRIST, MIDDLE_1)),
        Protocol("ho3d-v3", reflections=True, epsilon=1e-8, scale_bone=(WRIST, MIDDLE_1)),
        Protocol("freihand", reflections=True, epsilon=1e-8, root=MIDDLE_1),
        Protocol("dexycb", reflections=True, epsilon=1e-11),
        Protocol("dexycb-paper", reflections=False),
        Protocol("fpha", reflections=False),
        Protocol("shards", reflections=False),
    )
}
