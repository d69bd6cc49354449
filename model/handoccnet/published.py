"""The authors' published checkpoints: what their entries are called here, and which are of no use here.

Names and counts are those that the authors' code writes (reference: RELEASE_NETWORK section 7): 901 entries
in 2022, three `fitting_loss` ones more since 2023.
"""

import re
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from model.errors import ModelError
from model.mano.asset import HandModel, hand_model_from_arrays

# (published, ours), regular expressions; every rule is applied to every name, in this order.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.layer0\.0\.", "backbone.trunk.conv1."),
    (r"^backbone\.layer0\.1\.", "backbone.trunk.bn1."),
    (r"^backbone\.(layer[1-4])\.0\.", r"backbone.trunk.\1."),
    (r"^backbone\.toplayer\.", "backbone.top."),
    (r"^backbone\.latlayer1\.", "backbone.merge4.lateral."),
    (r"^backbone\.latlayer2\.", "backbone.merge3.lateral."),
    (r"^backbone\.latlayer3\.", "backbone.merge2.lateral."),
    (r"^backbone\.smooth3\.", "backbone.smooth."),
    (r"^backbone\.attention_module\.spatial\.", "necessity."),
    (r"^(FIT|SET)\.(.*)\.q_embedding$", r"\1.\2.query_embedding"),
    (r"^(FIT|SET)\.(.*)\.k_embedding$", r"\1.\2.key_embedding"),
    (r"^(FIT|SET)\.(.*)\.encode_(query|key)2\.", r"\1.\2.second_\3."),
    (r"^(FIT|SET)\.(.*)\.encode_(query|key|value)\.", r"\1.\2.\3."),
    (r"^(FIT|SET)\.(.*)\.norm2\.", r"\1.\2.norm."),
    (r"^(FIT|SET)\.(.*)\.mlp\.fc1\.", r"\1.\2.mlp.0."),
    (r"^(FIT|SET)\.(.*)\.mlp\.fc2\.", r"\1.\2.mlp.2."),
    (r"^FIT\.conv1\.", "injection.fusion.conv1."),
    (r"^FIT\.conv2\.0\.", "injection.fusion.conv2."),
    (r"^FIT\.layers\.", "injection.blocks."),
    (r"^SET\.layers\.", "enhancement.blocks."),
    (r"^regressor\.hand_regHead\.hg\.0\.hg\.(\d)\.0\.0\.", r"heatmap_head.hourglass.skips.\1."),
    (r"^regressor\.hand_regHead\.hg\.0\.hg\.(\d)\.1\.0\.", r"heatmap_head.hourglass.downs.\1."),
    (r"^regressor\.hand_regHead\.hg\.0\.hg\.(\d)\.2\.0\.", r"heatmap_head.hourglass.ups.\1."),
    (r"^regressor\.hand_regHead\.hg\.0\.hg\.0\.3\.0\.", "heatmap_head.hourglass.bottom."),
    (r"^regressor\.hand_regHead\.res\.0\.0\.", "heatmap_head.refine."),
    (r"^regressor\.hand_regHead\.fc\.0\.block\.", "heatmap_head.encode."),
    (r"^regressor\.hand_regHead\.score\.0\.", "heatmap_head.score."),
    (r"^regressor\.hand_regHead\.betas$", "heatmap_head.sharpness"),
    (r"^regressor\.hand_Encoder\.(heatmap|encoding)_conv\.", r"regressor.entry.\1_conv."),
    (r"^regressor\.hand_Encoder\.reg\.(\d)\.bn2\.", r"regressor.blocks.\1.bn3."),
    (r"^regressor\.hand_Encoder\.reg\.(\d)\.bn1\.", r"regressor.blocks.\1.bn2."),
    (r"^regressor\.hand_Encoder\.reg\.(\d)\.bn\.", r"regressor.blocks.\1.bn1."),
    (r"^regressor\.hand_Encoder\.reg\.", "regressor.blocks."),
    (r"^regressor\.mano_regHead\.mano_base_layer\.", "regressor.hidden."),
    (r"^regressor\.mano_regHead\.pose_reg\.", "regressor.pose."),
    (r"^regressor\.mano_regHead\.shape_reg\.", "regressor.betas."),
)

_MANO = "regressor.mano_regHead.mano_layer."

# Entries of the file that the network does not need.
_UNUSED: tuple[str, ...] = (
    r"^backbone\.smooth2\.",  # a convolution whose result the published code throws away
    r"^regressor\.hand_regHead\.(uu|vv)$",  # the cells' centres, computed here
    r"^regressor\.mano_regHead\.mano_layer\.",  # MANO's arrays: `hand_model_in`
    r"^fitting_loss\.",  # constants of the authors' fitting demo
)

# MANO's own keys for the arrays that the checkpoint carries.
_HAND_MODEL: dict[str, str] = {
    "v_template": "th_v_template",
    "shapedirs": "th_shapedirs",
    "posedirs": "th_posedirs",
    "J_regressor": "th_J_regressor",
    "weights": "th_weights",
    "f": "th_faces",
    "hands_mean": "th_hands_mean",
    "hands_components": "th_selected_comps",
}


def is_published(names: Mapping[str, object]) -> bool:
    """Tell the published layout by its stem, which no other layout calls so."""
    return any(name.startswith("backbone.layer0.") for name in names)


def our_name(published: str) -> str | None:
    """Return the name of a published entry in our network, or None where the network does not need it."""
    if any(re.search(pattern, published) for pattern in _UNUSED):
        return None
    for pattern, ours in _RENAMES:
        published = re.sub(pattern, ours, published)
    return published


def hand_model_in(entries: Mapping[str, Tensor]) -> HandModel | None:
    """Return the checkpoint's right hand, or None if it was taken out; part of one raises ModelError."""
    if not any(name.startswith(_MANO) for name in entries):
        return None
    missing = [_MANO + name for name in _HAND_MODEL.values() if _MANO + name not in entries]
    if missing:
        raise ModelError(f"the checkpoint's hand model lacks {', '.join(missing)}; fetch the file again")
    arrays = {key: entries[_MANO + name].detach().numpy() for key, name in _HAND_MODEL.items()}
    for key in ("v_template", "hands_mean"):
        if arrays[key].shape[:1] == (1,):
            arrays[key] = np.squeeze(arrays[key], axis=0)
    return hand_model_from_arrays(arrays, "right")
