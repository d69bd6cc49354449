"""Outputs of annotate whose hands are the labels' own, or wrong in a known way, written without a network."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from pipeline.columns import fixed_lists
from pipeline.cut import cut
from pipeline.errors import DataError
from pipeline.inputs import find_inputs
from pipeline.plan import store_keys, store_units
from pipeline.records import ANNOTATIONS, LEDGER, Counts, Unit
from pipeline.sinks.parts import part_uri, write_part
from pipeline.sources import webdataset

FINGERPRINT = "f" * 64


@dataclass(frozen=True)
class Hand:
    """What is predicted of a labelled hand: joints (21, 3) and vertices (778, 3), wrist at the origin.

    columns: what its row says otherwise than the label's.
    """

    joints: NDArray[np.float64]
    vertices: NDArray[np.float64]
    wrist: NDArray[np.float64] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def moved(self, by: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> "Hand":
        return replace(self, joints=by(self.joints), vertices=by(self.vertices))


Change = Callable[[str, Hand], Hand | DataError | None]


def unchanged(_key: str, hand: Hand) -> Hand:
    return hand


def annotate(
    shards: Path,
    output: Path,
    change: Change = unchanged,
    *,
    vertices: bool = True,
    rows: int = 5,
    tensors_sha256: str = "0" * 64,
    boxes: str = "given",
) -> Path:
    """Writes an output for the shards of a folder.

    Where `change` gives an error the hand is rejected for it; where it gives None for some other, or, where boxes are
    not given, the hand was not found.
    """
    inputs, _ = find_inputs([f"{shards}/*.tar"])
    units = []
    for source in inputs:
        units += store_keys(str(output), f"{len(units):06d}", cut(source, webdataset.probe(source), rows))
    store_units(str(output), 0, units)
    hand_model = synthetic_hand()
    job = {
        "command": "annotate",
        "content": {"model": {"error_head": True}, "boxes": boxes, "vertices": vertices, "tta": True},
        "fingerprint": FINGERPRINT,
        "conventions": {
            "model": "tiny",
            "crop_rule": CROP_RULES["demo"].describe(),
            "weights_tensors_sha256": tensors_sha256,
            "fingertip_vertices": ",".join(map(str, hand_model.fingertip_vertices)),
        },
        "weights": {"trained": True, "source": "truth", "sha256": "0" * 64},
        "hand_model": hand_model.name,
        "plan": {"given_up": []},
    }
    (output / "job.json").write_text(json.dumps(job))
    for unit in units:
        _write(output, unit, change, vertices, boxes)
    return output


def _write(output: Path, unit: Unit, change: Change, vertices: bool, boxes: str) -> None:
    hands: list[dict[str, Any]] = []
    predicted: list[Hand] = []
    ledger: list[dict[str, Any]] = []
    for sample in webdataset.read_as_named(unit):
        for index, entry in enumerate(sample.label["hands"]):
            hand = change(sample.key, _labelled(entry))
            row = {"source": unit.input, "key": sample.key, "hand_index": index, "status": "annotated"}
            if hand is None and boxes != "given":
                continue
            if hand is None or isinstance(hand, DataError):
                reason = str(hand or DataError("box outside", "of the test"))
                ledger.append(row | {"status": "rejected", "stage": "boxes", "reason": reason})
                continue
            ledger.append(row)
            predicted.append(hand)
            hands.append(_row(unit, sample.key, index, entry, hand))
    table = _table(hands, predicted)
    if not vertices:
        table = table.drop_columns(["vertices"])
    entries = pa.Table.from_pylist(ledger, schema=LEDGER)
    counts = Counts.of_ledger(entries).to_json()
    metadata = {
        "fingerprint": FINGERPRINT,
        "unit_id": unit.unit_id,
        "unit_version": unit.version,
        "counts": counts,
    }
    write_part(part_uri(str(output), "ledger", unit.unit_id), entries, metadata)
    write_part(part_uri(str(output), "annotations", unit.unit_id), table, metadata)


def _labelled(entry: dict[str, Any]) -> Hand:
    joints = np.array(entry.get("joints_3d", np.full((21, 3), np.nan)))
    wrist = np.array(entry.get("root_3d", joints[0]))
    vertices = np.array(entry.get("vertices", np.tile(wrist, (778, 1))))
    return Hand(joints - wrist, vertices - wrist)


def _row(unit: Unit, key: str, index: int, entry: dict[str, Any], hand: Hand) -> dict[str, Any]:
    mano = entry.get("mano", {})
    return {
        "instance_id": f"{unit.input}#{key}#{index}",
        "source": unit.input,
        "key": key,
        "hand_index": index,
        "side": entry["side"],
        "side_source": "given",
        "image_width": 160,
        "image_height": 160,
        "bbox": entry["bbox"],
        "bbox_source": "given",
        "global_orient": mano.get("global_orient", [0.0] * 3),
        "hand_pose": mano.get("hand_pose", [0.0] * 45),
        "betas": mano.get("betas", [0.0] * 10),
        "joints_2d": entry.get("joints_2d", [[0.0, 0.0]] * 21),
        "translation": None if hand.wrist is None else hand.wrist.tolist(),
        "confidence": 0.5,
        "joint_confidence": [0.5] * 21,
        **hand.columns,
    }


def _table(hands: list[dict[str, Any]], predicted: list[Hand]) -> pa.Table:
    points = {name: np.array([getattr(hand, name) for hand in predicted]) for name in ("joints", "vertices")}
    arrays = []
    for column in ANNOTATIONS:
        if column.name in points:
            shape = (0, 21, 3) if column.name == "joints" else (0, 778, 3)
            values = points[column.name] if predicted else np.zeros(shape)
            arrays.append(fixed_lists(values, column.type))
        else:
            arrays.append(pa.array([row.get(column.name) for row in hands], column.type))
    return pa.Table.from_arrays(arrays, schema=ANNOTATIONS)
