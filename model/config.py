"""What a network is: one frozen value, three presets, and every row of the paper's ablation tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model.errors import ModelError

Activation = Literal["relu", "leaky_relu"]
Necessity = Literal["convolutions", "spatial_gate"]
Neck = Literal["identity", "residual", "fit", "set", "fit+set"]
FitAttention = Literal["softmax", "softmax_softmax", "softmax_sigmoid"]
GatePool = Literal["mean", "sum"]
FitResidual = Literal["none", "q_soft", "q_sig"]
FitFusion = Literal["add", "convolution"]
SetBlock = Literal["identity", "residual", "transformer"]
SetResidual = Literal["projected_query", "input"]
SetKeys = Literal["previous", "first"]
RegressorInput = Literal["concat_features", "sum_encoding"]
PoseForm = Literal["axis_angle", "six_d"]
Initialisation = Literal["scaled", "published"]

JOINTS = 21  # heatmaps: wrist, then four joints of thumb, index, middle, ring, little
ROTATIONS = 16  # MANO's: the wrist's global orientation and fifteen finger joints
BETAS = 10


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One network, completely; a combination that means nothing raises ModelError.

    Where the paper and the published network differ (reference: RELEASE_NETWORK section 6) there is a field
    without a default, so that each preset says which side it takes.
    """

    name: str
    input_size: int  # pixels a side of the square crop
    feature_size: int  # cells a side of every map between backbone and regressor
    channels: int  # of those maps
    trunk_width: int = 64  # channels after the stem; 64 with the blocks below is ResNet-50
    trunk_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    activation: Activation  # of trunk, hourglass and regressor
    feature_norm: bool = (
        False  # batch norms on F, before SET and after it; neither paper nor release has them
    )
    error_head: bool = False  # the network predicts its own errors; neither paper nor release does
    necessity: Necessity
    heads: int  # of every attention; keys have channels / heads numbers
    position_embedding: bool
    mlp_activation: Literal["none", "gelu"]
    neck: Neck = "fit+set"  # Table 1: what stands between backbone and regressor
    residual_blocks: int = 0  # how many, where neck or set_block is "residual"
    fit_depth: Literal[1, 2]
    fit_attention: FitAttention = "softmax_sigmoid"  # Table 2
    gate_pool: GatePool  # over the keys, before FIT's sigmoid
    fit_residual: FitResidual = "none"  # Table 3
    fit_fusion: FitFusion
    set_block: SetBlock = "transformer"  # Table 4
    set_depth: Literal[1, 2]
    set_residual: SetResidual
    set_keys: SetKeys  # what a second SET block attends to: the first one's output or its input
    regressor_input: RegressorInput
    regressor_channels: int
    regressor_blocks: int  # residual blocks between two poolings
    head_widths: tuple[int, int]  # of the fully connected layers before pose and shape
    pose: PoseForm
    initialisation: Initialisation

    def __post_init__(self) -> None:
        problems = [*_wrong_values(self), *_impossible_combinations(self)]
        if problems:
            raise ModelError(f"model {self.name!r} cannot be built: {'; '.join(problems)}")

    @property
    def pool_steps(self) -> int:
        """How often a map is halved until it is 2×2: the hourglass's depth, and the regressor's poolings."""
        return self.feature_size.bit_length() - 2

    @property
    def has_fit(self) -> bool:
        return self.neck in ("fit", "fit+set")

    @property
    def has_set(self) -> bool:
        return self.neck in ("set", "fit+set")

    @property
    def has_resnet50(self) -> bool:
        return self.trunk_width == 64 and self.trunk_blocks == (3, 4, 6, 3)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, all fields named."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config that `to_dict` wrote; unknown and missing keys raise one ModelError of them all."""
    fields = dataclasses.fields(ModelConfig)
    unknown = sorted(set(values) - {f.name for f in fields})
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if unknown or missing:
        parts = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(
            missing
        )
        raise ModelError(f"the model config has {'; '.join(parts)}; written by another version of handocc?")
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return ModelConfig(**plain)


def _wrong_values(config: ModelConfig) -> list[str]:
    problems = []
    for name, kind in get_type_hints(ModelConfig).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal:
            if value not in get_args(kind) or type(value) is bool:  # True == 1, and is no depth
                problems.append(f"{name}={value!r} is not one of {', '.join(map(str, get_args(kind)))}")
        elif get_origin(kind) is tuple:
            whole = isinstance(value, tuple) and len(value) == len(get_args(kind))
            if not whole or not all(type(v) is int and v > 0 for v in value):
                problems.append(f"{name}={value!r} is not {len(get_args(kind))} positive numbers")
        elif type(value) is not kind:
            problems.append(f"{name}={value!r} is not of type {kind.__name__}")
        elif kind is int and value <= 0 and name != "residual_blocks":
            problems.append(f"{name}={value} is not positive")
    return problems


def _impossible_combinations(config: ModelConfig) -> list[str]:
    if _wrong_values(config):
        return []
    c = config
    residual = "residual" in (c.neck, c.set_block)
    rules = {
        f"feature_size={c.feature_size} is not a power of two from 4 up": (
            c.feature_size < 4 or c.feature_size.bit_count() != 1
        ),
        f"input_size={c.input_size} is not a multiple of 32": c.input_size % 32 != 0,
        f"input_size={c.input_size} gives {c.input_size // 4} cells, which do not pool to {c.feature_size}": (
            c.input_size % (4 * c.feature_size) != 0
        ),
        f"channels={c.channels} do not split over heads={c.heads}": c.channels % c.heads != 0,
        f"channels={c.channels} and regressor_channels={c.regressor_channels} must be even": (
            c.channels % 2 + c.regressor_channels % 2 != 0
        ),
        f"fit_residual={c.fit_residual} needs a neck with FIT": c.fit_residual != "none" and not c.has_fit,
        "fit_residual=q_sig needs fit_attention=softmax_sigmoid": (
            c.fit_residual == "q_sig" and c.fit_attention != "softmax_sigmoid"
        ),
        f"set_block={c.set_block} needs a neck with SET": c.set_block != "transformer" and not c.has_set,
        "neck=set with set_block=identity is neck=identity": c.neck == "set" and c.set_block == "identity",
        "a residual neck or SET needs residual_blocks (6 in the paper's Table 1, 3 in its Table 4)": (
            residual and c.residual_blocks < 1
        ),
        f"residual_blocks={c.residual_blocks} needs neck=residual or set_block=residual": (
            not residual and c.residual_blocks != 0
        ),
    }
    return [problem for problem, broken in rules.items() if broken]


PRESETS: dict[str, ModelConfig] = {
    "paper": ModelConfig(
        name="paper",
        input_size=512,
        feature_size=32,
        channels=256,
        activation="relu",
        necessity="convolutions",
        heads=1,
        position_embedding=False,
        mlp_activation="none",
        fit_depth=1,
        gate_pool="mean",
        fit_fusion="add",
        set_depth=1,
        set_residual="projected_query",
        set_keys="previous",
        regressor_input="concat_features",
        regressor_channels=512,
        regressor_blocks=1,
        head_widths=(1024, 512),
        pose="axis_angle",
        initialisation="scaled",
    ),
    "release": ModelConfig(
        name="release",
        input_size=256,
        feature_size=32,
        channels=256,
        activation="leaky_relu",
        necessity="spatial_gate",
        heads=4,
        position_embedding=True,
        mlp_activation="gelu",
        fit_depth=2,
        gate_pool="sum",
        fit_fusion="convolution",
        set_depth=2,
        set_residual="input",
        set_keys="first",
        regressor_input="sum_encoding",
        regressor_channels=256,
        regressor_blocks=2,
        head_widths=(1024, 512),
        pose="six_d",
        initialisation="published",
    ),
    # The release in miniature, for CPUs. The gate is pooled by its mean, as in the paper: the sum needs the
    # published, nearly silent initialisation to keep the sigmoid from saturating. Without a pretrained trunk the
    # maps between pyramid and hourglass grow until attention saturates and gradients explode, and nothing
    # keeps what SET gives from drifting away from zero: they are normalised.
    "tiny": ModelConfig(
        name="tiny",
        input_size=128,
        feature_size=16,
        channels=96,
        trunk_width=32,
        trunk_blocks=(2, 3, 4, 2),
        activation="leaky_relu",
        feature_norm=True,
        error_head=True,
        necessity="spatial_gate",
        heads=4,
        position_embedding=True,
        mlp_activation="gelu",
        fit_depth=2,
        gate_pool="mean",
        fit_fusion="convolution",
        set_depth=2,
        set_residual="input",
        set_keys="first",
        regressor_input="sum_encoding",
        regressor_channels=96,
        regressor_blocks=2,
        head_widths=(384, 256),
        pose="six_d",
        initialisation="scaled",
    ),
}

# What each row of the paper's Tables 1-4 changes in a preset.
ABLATIONS: dict[str, dict[str, Any]] = {
    "table1/identity": {"neck": "identity"},
    "table1/residual": {"neck": "residual", "residual_blocks": 6},
    "table1/fit": {"neck": "fit"},
    "table1/set": {"neck": "set"},
    "table1/fit+set": {"neck": "fit+set"},
    "table2/softmax": {"fit_attention": "softmax"},
    "table2/softmax_softmax": {"fit_attention": "softmax_softmax"},
    "table2/softmax_sigmoid": {"fit_attention": "softmax_sigmoid"},
    "table3/q_soft": {"fit_residual": "q_soft"},
    "table3/q_sig": {"fit_residual": "q_sig"},
    "table3/none": {"fit_residual": "none"},
    "table4/identity": {"set_block": "identity"},
    "table4/residual": {"set_block": "residual", "residual_blocks": 3},
    "table4/one_transformer": {"set_depth": 1},
    "table4/two_transformers": {"set_depth": 2},
}


# What the command line calls the four questions that the tables ask.
ABLATION_TABLES = {"neck": "table1", "fit": "table2", "fit_residual": "table3", "set": "table4"}


def preset(name: str) -> ModelConfig:
    """Return the preset of that name, or raise ModelError with the names there are."""
    if name not in PRESETS:
        raise ModelError(f"there is no model {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def ablation_configs(preset_name: str) -> dict[str, ModelConfig]:
    """Return a config per row of the paper's Tables 1-4, e.g. "table2/softmax", as changes of one preset."""
    start = preset(preset_name)
    return {
        row: dataclasses.replace(start, name=f"{preset_name}/{row}", **changes)
        for row, changes in ABLATIONS.items()
    }


def ablated(config: ModelConfig, changes: Sequence[str]) -> ModelConfig:
    """Return a config with rows of the paper's Tables 1-4 put in, each as NAME=VALUE, e.g. "fit=softmax".

    Raises ModelError, with what there is, for a name or value that is none, or rows that exclude each other.
    """
    rows: dict[str, dict[str, Any]] = {}
    for change in changes:
        name, _, value = change.partition("=")
        row = f"{ABLATION_TABLES.get(name)}/{value}"
        if row not in ABLATIONS:
            known = {
                option: ", ".join(key.split("/")[1] for key in ABLATIONS if key.startswith(table))
                for option, table in ABLATION_TABLES.items()
            }
            choices = "; ".join(f"{option}= {values}" for option, values in known.items())
            raise ModelError(f"there is no ablation {change!r}; there are {choices}")
        other = next((earlier for earlier in rows if earlier.startswith(row.split("/")[0])), row)
        if other != row:
            raise ModelError(f"{change} and {name}={other.split('/')[1]} are rows of one table; choose one")
        rows[row] = ABLATIONS[row]
    merged = {field: value for row in rows.values() for field, value in row.items()}
    chosen = dataclasses.replace(config, name="/".join([config.name, *rows]), **merged)
    for option, there in (("fit", chosen.has_fit), ("fit_residual", chosen.has_fit), ("set", chosen.has_set)):
        if not there and any(row.startswith(ABLATION_TABLES[option]) for row in rows):
            raise ModelError(f"{option}= needs a neck with {option[:3].upper()}, neck={chosen.neck} has none")
    return chosen
