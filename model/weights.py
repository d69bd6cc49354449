"""Weights files: ours (safetensors with the config inside), the authors', ImageNet's, and none at all."""

import functools
import hashlib
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model.config import PRESETS, ModelConfig, config_from_dict
from model.errors import ModelError, OtherModelError
from model.handoccnet import published
from model.handoccnet.initialisation import start_at_rest
from model.handoccnet.network import HandOccNet, build_network
from model.mano.asset import HandModel

Source = Literal["handocc", "published", "state_dict", "random"]

_METADATA_KEY = "handocc"  # one key holding JSON: safetensors keeps no order among several
_OLD_TORCH = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # protocol 2, and the magic number of torch.serialization
)
_NAMED = 6  # entries that an error names before it counts


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """A network in eval mode, and where its weights are from."""

    network: HandOccNet
    config: ModelConfig
    sha256: str  # of the file; of "random:<seed>:<config as JSON>" where there is none
    source: Source
    trained: bool
    hand_model: HandModel | None  # that a published checkpoint carries
    hand_model_name: str | None  # that the weights were trained on, where known
    notes: Mapping[str, str]
    calibration: Mapping[str, Any] | None = (
        None  # what `pipeline.calibration` learnt for them, as plain values
    )

    @functools.cached_property
    def tensors_sha256(self) -> str:
        """A digest of the network's tensors alone: the same whatever else the file says, and for either format."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_weights(data: bytes, config: ModelConfig | None = None) -> LoadedWeights:
    """Read our safetensors, a published checkpoint, or a bare state dict (whose config must be given).

    Nothing in the file is executed. A config other than the file's own, a file of another kind, and entries
    that are missing, unknown, misshapen or not finite raise ModelError.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    if _is_safetensors(data):
        return _load_own(data, config, sha256)
    entries, notes = _checkpoint_entries(data)
    if published.is_published(entries):
        return _load_published(entries, config, sha256, notes)
    if config is None:
        raise ModelError(
            "weights: a bare state dict without the published names does not say its model; choose --model"
        )
    network = _filled(config, entries, {name: name for name in entries})
    return LoadedWeights(
        network=network,
        config=config,
        sha256=sha256,
        source="state_dict",
        trained=True,
        hand_model=None,
        hand_model_name=None,
        notes=notes,
    )


def is_checkpoint(data: bytes) -> bool:
    """Say whether a file looks like what torch.save writes, of either format, by what it begins with and holds."""
    if data.startswith(_OLD_TORCH):
        return True
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return any(name.endswith("/data.pkl") for name in names)


def carried_hand_model(data: bytes) -> HandModel | None:
    """Return the hand model that a checkpoint carries, or None; its network is not built.

    A file that is no checkpoint, and a hand model in part, raise ModelError.
    """
    return published.hand_model_in(_checkpoint_entries(data)[0])


def adapted_weights(data: bytes, config: ModelConfig, seed: int) -> tuple[LoadedWeights, tuple[str, ...]]:
    """Return an untrained network with all that fits of another model's weights, and its parts that stay untrained.

    A part is a module that the network itself is made of, such as `injection`; it counts as untrained unless all of
    it fits. A file that `load_weights` refuses, and one that fills no part, raise ModelError.
    """
    known = load_weights(data).network.state_dict()
    fresh = random_weights(config, seed)
    own = fresh.network.state_dict()
    fitting = {n: t for n, t in known.items() if n in own and t.shape == own[n].shape}
    fresh.network.load_state_dict({**own, **fitting})
    parts = dict.fromkeys(name.split(".")[0] for name in own)
    untrained = tuple(
        part for part in parts if any(n.split(".")[0] == part and n not in fitting for n in own)
    )
    if len(untrained) == len(parts):
        raise ModelError(f"weights: no part of the model {config.name!r} can be taken from the file")
    return fresh, untrained


def random_weights(config: ModelConfig, seed: int) -> LoadedWeights:
    """Return an untrained network, the same for the same seed; its hands rest, its heatmaps are flat."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build_network(config)
    start_at_rest(network.regressor)
    text = f"random:{seed}:{json.dumps(config.to_dict(), sort_keys=True)}"
    return LoadedWeights(
        network=network.eval(),
        config=config,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        source="random",
        trained=False,
        hand_model=None,
        hand_model_name=None,
        notes={"seed": str(seed)},
    )


def save_weights(
    network: nn.Module,
    config: ModelConfig,
    *,
    hand_model_name: str | None,
    notes: Mapping[str, str],
    half: bool = False,
    calibration: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a safetensors file with the config inside; `half` stores float16. MANO's arrays are never in it.

    The network may be wrapped by DistributedDataParallel or torch.compile. Equal weights give equal bytes.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in _bare(network).state_dict().items()}
    if half:
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ModelError(f"weights: {name} does not fit float16; save with half=False")
    about = {"config": config.to_dict(), "hand_model": hand_model_name, "notes": dict(notes)}
    about |= {} if calibration is None else {"calibration": dict(calibration)}
    return _to_file(tensors, about)


def add_calibration(
    data: bytes, calibration: Mapping[str, Any], *, config: ModelConfig | None, hand_model_name: str
) -> bytes:
    """Return a weights file as one of ours, with a calibration inside in place of any it had; its tensors stay.

    Raises what `load_weights` does.
    """
    if _is_safetensors(data):
        load_weights(data, config)
        about = _about(data) | {"calibration": dict(calibration)}
        return _to_file(safetensors.torch.load(data), about)
    loaded = load_weights(data, config)
    return save_weights(
        loaded.network,
        loaded.config,
        hand_model_name=hand_model_name,
        notes=loaded.notes,
        calibration=calibration,
    )


def _to_file(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    metadata = {_METADATA_KEY: json.dumps(about, sort_keys=True)}
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def _about(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    about: dict[str, Any] = json.loads(header["__metadata__"][_METADATA_KEY])
    return about


def load_imagenet_resnet50(network: nn.Module, data: bytes) -> None:
    """Fill the trunk with torchvision's ResNet-50; its classifier is ignored, all else must match.

    The old files (resnet50-19c8e357) have no `num_batches_tracked`; the trunk keeps its own zeros there.
    """
    trunk = _bare(network).backbone.trunk
    entries, _ = _checkpoint_entries(data)
    counters = {n: t for n, t in trunk.state_dict().items() if n.endswith("num_batches_tracked")}
    entries = counters | {n: t for n, t in entries.items() if n not in ("fc.weight", "fc.bias")}
    _fill(trunk, entries, {name: name for name in entries}, "an ImageNet ResNet-50 for this trunk")


def _load_own(data: bytes, config: ModelConfig | None, sha256: str) -> LoadedWeights:
    try:
        tensors = safetensors.torch.load(data)
        about = _about(data)
        own = config_from_dict(about["config"])
        hand_model_name, notes = about["hand_model"], dict(about["notes"])
        if not isinstance(hand_model_name, str | None):
            raise TypeError(f"hand_model is {hand_model_name!r}")
        calibration = about.get("calibration")
        if not isinstance(calibration, dict | None):
            raise TypeError(f"calibration is a {type(calibration).__name__}")
    except ModelError:
        raise
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"weights: not a safetensors file that handocc wrote ({type(error).__name__}: {_line(error)})"
        ) from error
    if config is not None:
        theirs, ours = config.to_dict(), own.to_dict()
        different = [
            f"{n}={ours[n]!r} (asked: {theirs[n]!r})" for n in ours if ours[n] != theirs[n] and n != "name"
        ]
        if different:
            raise OtherModelError(
                f"weights: the file's model {own.name!r} is not the {config.name!r} asked for: {_listed(different)}"
            )
    network = _filled(own, tensors, {name: name for name in tensors})
    return LoadedWeights(
        network=network,
        config=own,
        sha256=sha256,
        source="handocc",
        trained=True,
        hand_model=None,
        hand_model_name=hand_model_name,
        notes=notes,
        calibration=calibration,
    )


def _load_published(
    entries: dict[str, Tensor], config: ModelConfig | None, sha256: str, notes: Mapping[str, str]
) -> LoadedWeights:
    release = PRESETS["release"]
    if config not in (None, release):
        raise ModelError(
            f"weights: this is a published checkpoint, which holds the model 'release', not {config.name!r}"
        )
    names = {ours: name for name in entries if (ours := published.our_name(name)) is not None}
    network = _filled(release, {ours: entries[name] for ours, name in names.items()}, names)
    hand_model = published.hand_model_in(entries)
    return LoadedWeights(
        network=network,
        config=release,
        sha256=sha256,
        source="published",
        trained=True,
        hand_model=hand_model,
        hand_model_name=None if hand_model is None else hand_model.name,
        notes=notes,
    )


def _checkpoint_entries(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a torch or safetensors file by name, without `module.`, and what else it says."""
    if _is_safetensors(data):
        try:
            return safetensors.torch.load(data), {}
        except safetensors.SafetensorError as error:
            raise ModelError(f"weights: the safetensors file is broken ({_line(error)})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises all the same
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "weights: not a file of tensors alone (text, another format, or a pickle that wants to run code, "
            "which handocc refuses); give a torch checkpoint or safetensors"
        ) from error
    except (
        RuntimeError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,  # torch's old format checks some of the file's own claims with assert
        EOFError,
        MemoryError,
        OSError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        raise ModelError(
            f"weights: not a whole torch checkpoint ({type(error).__name__}: {_line(error)})"
        ) from error
    notes: dict[str, str] = {}
    entries = loaded
    for wrapper in ("network", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            entries = loaded[wrapper]
            notes = {"epoch": str(loaded["epoch"])} if isinstance(loaded.get("epoch"), int) else {}
            break
    if not isinstance(entries, dict) or not entries:
        raise ModelError(
            f"weights: the checkpoint holds a {type(entries).__name__}, not a dict of named tensors"
        )
    others = [str(name) for name, value in entries.items() if not isinstance(value, Tensor)]
    if others:
        raise ModelError(f"weights: these entries of the checkpoint are not tensors: {_listed(others)}")
    return {str(name).removeprefix("module."): tensor for name, tensor in entries.items()}, notes


def _filled(config: ModelConfig, tensors: Mapping[str, Tensor], file_names: Mapping[str, str]) -> HandOccNet:
    with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten and should cost no one a seed
        network = build_network(config)
    _fill(network, tensors, file_names, f"the model {config.name!r}")
    return network.eval()


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], file_names: Mapping[str, str], what: str) -> None:
    """Copy tensors into the module as its own dtypes; what does not match is named as the file calls it."""
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        if name not in wanted:
            problems.append(f"{file_names[name]} is unknown")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{file_names[name]} is {_shape(tensor)}, not {_shape(wanted[name])}")
        elif tensor.is_floating_point() != wanted[name].is_floating_point():
            problems.append(f"{file_names[name]} is {tensor.dtype}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{file_names[name]} has values that are not finite")
    if problems:
        raise ModelError(f"weights: the file does not fit {what}: {_listed(problems)}")
    module.load_state_dict({name: tensors[name] for name in wanted})


def _bare(network: nn.Module) -> Any:
    """Return the network inside DistributedDataParallel and torch.compile."""
    inner: Any = network
    while not isinstance(inner, HandOccNet):
        inner = inner.module if hasattr(inner, "module") else inner._orig_mod
    return inner


def _is_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and len(data) > 8 and struct.unpack("<Q", data[:8])[0] <= len(data) - 8


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def _listed(items: list[str]) -> str:
    rest = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
