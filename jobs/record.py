"""What a job leaves beside its parts: `job.json` when it starts, `summary.json` when it has finished."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of
from pipeline.records import Unit

PACKAGES = (
    "handocc",
    "torch",
    "ray",
    "pyarrow",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "smplx",
    "fsspec",
)
# What every job.json of annotate holds, and others rely on.
OF_ANNOTATE = {
    "content": dict,
    "fingerprint": str,
    "conventions": dict,
    "weights": dict,
    "hand_model": str,
    "plan": dict,
}


def job(command: str, options: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what every job.json says: the command, its options (a dataclass, without secrets), what decides its
    results, their digest, and what it runs on."""
    return {
        "command": command,
        "options": without_secrets(asdict(options)),
        "content": content,
        "fingerprint": fingerprint_of(content),
        "versions": versions(),
        "machine": machine(),
    }


def require_same(
    output: str,
    command: str,
    content: Mapping[str, Any],
    fingerprint: str,
    *,
    overwrite: bool,
    name: str = "job.json",
    way_out: str = "use another --output, or --overwrite to do it anew",
) -> None:
    """Holds a job against the one that wrote the output, if there is one.

    overwrite: whether its settings may differ. name: where a job says what it is. way_out: what a person can do.

    Raises:
        ConfigError: it is another command's, or the settings differ; the message names what and how.
    """
    earlier = require_own(output, command, name)
    if earlier is None or overwrite or earlier.get("fingerprint") == fingerprint:
        return
    differing = [
        f"{key} was {_short(earlier['content'].get(key))} and is {_short(content.get(key))}"
        for key in sorted({*earlier["content"], *content})
        if earlier["content"].get(key) != content.get(key)
    ]
    raise ConfigError(f"{output} holds what another job wrote ({'; '.join(differing)}): {way_out}")


def require_own(output: str, command: str, name: str = "job.json") -> dict[str, Any] | None:
    """Returns what the job that wrote the output says of itself, None where there was none.

    Raises:
        ConfigError: it was another command's. `--overwrite` does a job anew; it does not take what is not its own.
    """
    earlier = read(output, name)
    if earlier is None:
        return None
    if "content" not in earlier:
        raise ConfigError(f"{output}/{name} is none of ours; use another --output")
    if earlier.get("command") != command:
        raise ConfigError(
            f"{output} is an output of `handocc {earlier.get('command')}`; use another --output"
        )
    return earlier


def is_of(output: str, fingerprint: str) -> bool:
    """Says whether the job that wrote the output last, or began to, had these settings."""
    earlier = read(output, "job.json")
    return earlier is not None and earlier.get("fingerprint") == fingerprint


def of_annotate(output: str) -> dict[str, Any]:
    """Returns the job.json of an output of annotate.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    job = read(output, "job.json")
    if job is None or job.get("command") != "annotate" or "fingerprint" not in job:
        raise ConfigError(f"{output}: no output of `handocc annotate` (it has no such job.json)")
    lacking = [name for name, kind in OF_ANNOTATE.items() if not isinstance(job.get(name), kind)]
    if lacking:
        raise ConfigError(f"{output}/job.json is damaged: it lacks {', '.join(lacking)}")
    return job


def asked_for(job: Mapping[str, Any], units: Sequence[Unit], done: Container[str]) -> list[Unit]:
    """Returns the units of an output of annotate that are done, or left to do.

    What its last command no longer named, and none has done, is neither. done: the ids of what is done.
    """
    given_up = set(job["plan"]["given_up"])
    return [unit for unit in units if unit.unit_id in done or unit.input not in given_up]


def way_to_the_end(job: Mapping[str, Any], incomplete: Iterable[str]) -> str:
    """Says which command annotates the rest of these inputs of an output of annotate."""
    if not set(incomplete).isdisjoint(job["plan"]["given_up"]):
        return "the last annotate did not name them all: name them again"
    if job.get("options", {}).get("limit") is not None:
        return "the last annotate ended at its --limit: give it none"
    return "the command that job.json names continues"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read(output: str, name: str) -> dict[str, Any] | None:
    """Returns what a JSON file of an output, such as job.json, holds, or None where it is not there.

    Raises:
        ConfigError: it cannot be read, or is none of ours.
    """
    try:
        content: dict[str, Any] = json.loads(storage.read(storage.join(output, name)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{output}/{name} cannot be read ({error})") from error
    except ValueError as error:
        raise ConfigError(
            f"{output}/{name} is damaged ({error}); remove it, or use another --output"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{output}/{name} is none of ours; use another --output")
    return content


def write(output: str, name: str, content: Mapping[str, Any]) -> None:
    """Writes job.json or summary.json, for people as much as for programs."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    storage.put(storage.join(output, name), text.encode("utf-8", "backslashreplace"))


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options as plain values; URIs lose the credentials that they may carry."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, tuple):
            plain[name] = [storage.redacted(item) for item in value]
        else:
            plain[name] = storage.redacted(value) if isinstance(value, str) else value
    return plain


def versions() -> dict[str, str]:
    """Returns the versions of what shapes the result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Returns what this machine is, as far as results and speed depend on it."""
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }
