"""The last stage: meshes, then the ledger, then the annotation part, which commits the unit."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import ANNOTATIONS, LEDGER, Counts, UnitRecord
from pipeline.sinks.meshes import write_meshes
from pipeline.sinks.parts import part_uri, write_part


@dataclass(frozen=True)
class Write:
    """Writes one unit. A unit that is written twice leaves the same objects under the same names.

    metadata: what every annotation part says of itself, the unit's own entries aside.
    """

    output: str
    meshes: str
    vertices: bool
    metadata: Mapping[str, str]
    faces: Mapping[str, NDArray[np.int64]]

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit, hands = record.unit, record.hands
        counts = Counts.of_ledger(record.ledger)
        metadata = {
            **self.metadata,
            "unit_id": unit.unit_id,
            "unit_version": unit.version,
            "counts": counts.to_json(),
        }
        if self.meshes != "none" and hands.num_rows:
            paths = write_meshes(
                self.output,
                unit,
                hands,
                kind=self.meshes,
                faces=self.faces,
                hand_model=self.metadata["hand_model"],
            )
            column = hands.schema.get_field_index("mesh")
            hands = hands.set_column(column, ANNOTATIONS.field("mesh"), pa.array(paths, pa.string()))
        if not self.vertices:
            hands = hands.drop_columns(["vertices"])
        write_part(part_uri(self.output, "ledger", unit.unit_id), record.ledger, metadata)
        write_part(part_uri(self.output, "annotations", unit.unit_id), hands, metadata)
        written = replace(record, hands=ANNOTATIONS.empty_table(), ledger=LEDGER.empty_table(), counts=counts)
        return written.timed("write", time.perf_counter() - started)
