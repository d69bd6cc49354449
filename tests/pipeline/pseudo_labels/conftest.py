"""Annotations that are the truth itself, of two shards, and what is true."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sinks.parts import part_uri, write_part
from tests.pipeline.evaluation.annotated import FINGERPRINT, Hand, annotate
from tests.pipeline.pseudo_labels.made import parts_of


@pytest.fixture(scope="module")
def truth(shards: Path) -> dict[str, tuple[Any, bytes]]:
    """Label and picture of every sample of the source, by file name and key."""
    found: dict[str, Any] = {}
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as archive:
            data = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name in data:
            if name.endswith(".json"):
                key = name.removesuffix(".json")
                found[f"{path.name}#{key}"] = json.loads(data[name]), data[key + ".jpg"]
    return found


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The truth as annotations, with a camera and a translation, and confidences from 0 to 1."""
    output = annotate(shards, tmp_path_factory.mktemp("annotated"), _with_wrist, vertices=False)
    for number, (unit, part) in enumerate(parts_of(output).items()):
        table = pq.read_table(part_uri(str(output), "annotations", unit))
        rng = np.random.default_rng(number)
        sure = pa.array(rng.uniform(size=table.num_rows).astype(np.float32))
        camera = pa.array([[300.0, 310.0, 80.5, 79.5]] * table.num_rows, pa.list_(pa.float32()))
        table = table.set_column(
            table.schema.get_field_index("confidence"), table.schema.field("confidence"), sure
        )
        table = table.set_column(table.schema.get_field_index("camera"), table.schema.field("camera"), camera)
        said = {"fingerprint": FINGERPRINT, "unit_id": unit, "unit_version": part.unit_version}
        write_part(
            part_uri(str(output), "annotations", unit), table, said | {"counts": part.counts.to_json()}
        )
    return output


def _with_wrist(_key: str, hand: Hand) -> Hand:
    return replace(hand, wrist=np.array([0.01, -0.02, 0.5]))
