"""Begins a run in its output: anew, or from where it was, if it is the same."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobs import record
from jobs.console import say
from jobs.training import checkpoints
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of


def begin(
    output: str,
    content: Mapping[str, Any],
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Refuses to mix runs: what is there is continued, done anew, or left alone; then writes job.json.

    content: what a run is, which no resumption changes. settings: what may be changed on the way; job.json keeps
    what they were before. about: what job.json says besides.

    Raises:
        ConfigError: the output holds another run, or this one, and neither way on was chosen.
    """
    there = record.read(output, "job.json")
    content = dict(_flat(content))
    fingerprint = fingerprint_of(content)
    before: list[Mapping[str, Any]] = []
    record.require_same(output, "train", content, fingerprint, overwrite=overwrite)
    if overwrite and (there is not None or checkpoints.are_there(output)):
        _clear(output)
    elif there is not None:
        if not resume:
            raise ConfigError(
                f"{output} holds this run already: --resume continues it, --overwrite does it anew"
            )
        before = _noted(there["settings_before"], there["settings"], settings)
    elif checkpoints.are_there(output):
        raise ConfigError(
            f"{output} holds checkpoints of a run that nobody knows (its job.json is gone): use another --output, or "
            "--overwrite to do it anew"
        )
    checkpoints.mend(output)
    job = {"command": "train", "content": content, "fingerprint": fingerprint}
    record.write(output, "job.json", job | {"settings": settings, "settings_before": before, **about})


def _noted(
    earlier: list[Mapping[str, Any]], last: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Says which settings change, and adds the last ones to those before."""
    changes = [f"{name} {settings[name]} (was {last[name]})" for name in last if settings[name] != last[name]]
    if not changes:
        return earlier
    say(f"note: goes on with {', '.join(changes)}")
    return [*earlier, last]


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields plain values by their path, as model.fit_attention: what differs is told by these names."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _clear(output: str) -> None:
    checkpoints.remove(output)
    for folder in ("weights", "pictures", "tensorboard"):
        for file in list(storage.list_files(storage.join(output, folder))):
            storage.delete(file.uri)
    storage.delete(storage.join(output, "metrics.jsonl"))
