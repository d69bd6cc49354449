"""Training shards with something wrong in them, made from good ones, and the runs of samples that they are read in."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.inputs import find_inputs
from pipeline.records import Unit
from pipeline.sources import webdataset
from pipeline.units import cut

Change = Callable[[bytes], bytes]


def changed(shard: Path, to: Path, changes: dict[str, Change]) -> Path:
    """Writes a shard anew, some of its members (`<key>.json`, `<key>.jpg`) changed."""
    left = dict(changes)
    with tarfile.open(shard) as source, tarfile.open(to, "w") as target:
        for member in source:
            stream = source.extractfile(member)
            assert stream is not None
            data = left.pop(member.name, bytes)(stream.read())
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    assert not left, left
    return to


def hand(field: str, value: Any) -> Change:
    """Sets one field of a label's first hand."""

    def change(data: bytes) -> bytes:
        label = json.loads(data)
        label["hands"][0][field] = value
        return json.dumps(label).encode()

    return change


def label(field: str, value: Any) -> Change:
    """Sets one field of a label."""
    return lambda data: json.dumps(json.loads(data) | {field: value}).encode()


def broken(data: bytes) -> bytes:
    """What is left of a picture whose writer was killed."""
    return data[:100]


def segments(folder: Path, size: int = 32) -> list[Unit]:
    """Returns the shards of a folder in runs of at most so many samples."""
    shards, _ = find_inputs([str(folder / "*.tar")])
    return [planned.unit for shard in shards for planned in cut(shard, webdataset.probe(shard), size)]
