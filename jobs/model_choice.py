"""Which weights and which hand model a job runs: the rules that keep the two together."""

from dataclasses import dataclass

from model import shipped
from model.config import ModelConfig, preset
from model.crop import CROP_RULES, CropRule, require_opencv4
from model.errors import ModelError, OtherModelError
from model.mano.asset import HandModel, load_mano
from model.mano.synthetic import synthetic_hand
from model.weights import LoadedWeights, carried_hand_model, is_checkpoint, load_weights, random_weights
from pipeline import storage
from pipeline.errors import ConfigError

NO_WEIGHTS = (
    "needs --weights: a checkpoint of the authors' (`--model release --weights snapshot_demo.pth.tar`), a file "
    "that `handocc train` wrote, shipped:tiny for the small network that comes along (it has seen synthetic hands "
    "only), or random:SEED for an untrained one"
)
SHIPPED = "shipped:"


@dataclass(frozen=True)
class ModelChoice:
    """A network and the hand model that its parameters belong to; `remarks` are for the console and job.json."""

    weights: LoadedWeights
    hand_model: HandModel
    remarks: tuple[str, ...]


def choose_model(model: str | None, weights: str | None, mano: str | None) -> ModelChoice:
    """Loads what the options name.

    Raises:
        ConfigError: no weights; weights and hand model that do not belong together.
        ModelError: a file that is not what it must be.
    """
    require_opencv4()
    if weights is None:
        raise ConfigError(NO_WEIGHTS)
    loaded = weights_as(weights, None if model is None else preset(model))
    hand_model, remarks = _hand_model(loaded, mano)
    if not loaded.trained:
        remarks = (*remarks, f"the weights are {weights}: untrained, the hands mean nothing")
    elif "trained on" in loaded.notes:
        remarks = (*remarks, f"the weights were trained on {loaded.notes['trained on']}")
    return ModelChoice(loaded, hand_model, remarks)


def weights_as(uri: str, config: ModelConfig | None) -> LoadedWeights:
    """Loads what --weights names, as a network of a config where the file does not say of which it is.

    Raises:
        ConfigError: the file cannot be read, or is of another network.
    """
    if uri.startswith("random:"):
        seed = uri.removeprefix("random:")
        if not seed.isdecimal():
            raise ConfigError(f"--weights {uri}: random:SEED takes a whole number, such as random:0")
        if config is None:
            raise ConfigError(
                f"--weights {uri} needs --model: random weights do not say which network they are of"
            )
        return random_weights(config, int(seed))
    return weights_of(read_weights(uri), uri, config)


def weights_of(
    data: bytes,
    uri: str,
    config: ModelConfig | None,
    way_out: str = "leave --model out, and the file decides",
) -> LoadedWeights:
    """Returns what the file holds that --weights names, as a network of a config where it does not say of which it is.

    way_out: what mends that the file says that it is of another network.

    Raises:
        ConfigError: it does, or is no weights file.
    """
    try:
        return load_weights(data, config)
    except OtherModelError as error:
        raise ConfigError(f"--weights {uri}: {error}; {way_out}") from error
    except ModelError as error:
        raise ConfigError(f"--weights {uri}: {error}") from error


def _hand_model(weights: LoadedWeights, mano: str | None) -> tuple[HandModel, tuple[str, ...]]:
    remarks: tuple[str, ...] = ()
    synthetic = synthetic_hand()
    if mano is None and weights.hand_model is not None:
        mano = "checkpoint"
    if mano is None and (weights.hand_model_name == synthetic.name or not weights.trained):
        mano = "synthetic"
    if mano is None:
        raise ConfigError(
            "needs --mano: the weights carry no hand model; give MANO_RIGHT.pkl from mano.is.tue.mpg.de"
        )
    if mano == "checkpoint":
        if weights.hand_model is None:
            raise ConfigError(
                "--mano checkpoint: these weights carry no MANO arrays; give MANO_RIGHT.pkl instead"
            )
        hand_model = weights.hand_model
    else:
        hand_model, remarks = choose_hand_model(mano)
    trained_on = weights.hand_model.name if weights.hand_model else weights.hand_model_name
    if weights.trained and trained_on is not None and trained_on != hand_model.name:
        raise ConfigError(
            f"--mano: the weights were trained on hand model {trained_on[:20]}, this one is {hand_model.name[:20]}; "
            "parameters of one mean nothing in the other"
        )
    return hand_model, remarks


def choose_hand_model(mano: str) -> tuple[HandModel, tuple[str, ...]]:
    """Returns the procedural hand, or the one of a MANO file or a checkpoint, and what has to be said of it.

    Raises:
        ConfigError: the file is missing, or is neither MANO's nor a checkpoint with MANO's arrays.
    """
    if mano == "synthetic":
        hand_model = synthetic_hand()
        return hand_model, (f"the hand model is the procedural hand {hand_model.name}, in place of MANO",)
    data = read_file(mano, "--mano")
    try:
        if is_checkpoint(data):
            carried = carried_hand_model(data)
            if carried is None:
                raise ModelError("the checkpoint carries no MANO arrays; give MANO_RIGHT.pkl instead")
            return carried, ()
        return load_mano(data, "right"), ()
    except ModelError as error:
        raise ConfigError(f"--mano {mano}: {error}") from error


def choose_crop_rule(boxes: str, scale: float | None) -> CropRule:
    """Returns how boxes become crops: whole images as they are, all else as the weights were fed."""
    rule = CROP_RULES["whole" if boxes == "whole" else "demo"]
    if scale is None:
        return rule
    if not 0.1 <= scale <= 10:
        raise ConfigError(f"--box-scale {scale:g}: must be between 0.1 and 10")
    return CropRule(f"{rule.name} x{scale:g}", scale, rule.clip_first)


def read_weights(uri: str) -> bytes:
    """Returns the weights file that an option names, or the one that comes along under shipped:NAME.

    Raises:
        ConfigError: it cannot be read, or there is none of that name.
    """
    if not uri.startswith(SHIPPED):
        return read_file(uri, "--weights")
    name = uri.removeprefix(SHIPPED)
    if name not in shipped.NAMES:
        known = ", ".join(SHIPPED + one for one in shipped.NAMES)
        raise ConfigError(f"--weights {uri}: no such weights come along; there are {known}")
    return shipped.read(name)


def read_file(uri: str, what: str) -> bytes:
    """Returns the file that an option names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return storage.read(uri)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"{what} {uri}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{what} {uri}: cannot be read ({error})") from error
