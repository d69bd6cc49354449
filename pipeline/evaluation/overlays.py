"""Pictures of the worst hands: the image, the prediction over it and from its side, and the truth."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.mano.asset import HandModel
from pipeline.columns import fixed_lists
from pipeline.evaluation.hands import HandPoser, predicted_vertices
from pipeline.evaluation.summary import WorstHand
from pipeline.gallery import LABEL_INDEX, Picture, strips
from pipeline.records import ANNOTATIONS, Unit
from pipeline.render import Tile, sheet
from pipeline.sinks.parts import Part, read_table


def worst_sheet(
    predictions: str,
    worst: Sequence[WorstHand],
    units: Mapping[str, Unit],
    parts: Mapping[str, Part],
    hand_model: HandModel | None,
    stamp: str | None,
) -> Picture | None:
    """Returns a contact sheet, the worst hand first, or None where there is none; `units` hold the pictures.

    stamp: a word across every prediction.
    """
    if not worst:
        return None
    poser = None if hand_model is None else HandPoser(hand_model)
    tables = []
    for unit_id in dict.fromkeys(hand.unit_id for hand in worst):
        labels = {(hand.key, hand.hand_index): hand.label_index for hand in worst if hand.unit_id == unit_id}
        table = read_table(predictions, "annotations", parts[unit_id])
        places = zip(table["key"].to_pylist(), table["hand_index"].to_pylist(), strict=True)
        table = table.append_column(
            LABEL_INDEX, pa.array([labels.get(place) for place in places], pa.int32())
        )
        table = table.filter(pc.is_valid(table[LABEL_INDEX]))
        if "vertices" not in table.column_names and poser is not None:
            posed = predicted_vertices(table, poser)
            assert posed is not None
            field = ANNOTATIONS.field("vertices")
            table = table.append_column(field, fixed_lists(posed.astype(np.float32), field.type))
        tables.append(table.append_column("unit_id", pa.array([unit_id] * table.num_rows)))
    rows = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    place_of = {
        row["instance_id"]: (row["unit_id"], row["key"], row["hand_index"])
        for row in rows.select(["instance_id", "unit_id", "key", "hand_index"]).to_pylist()
    }
    error_of = {(hand.unit_id, hand.key, hand.hand_index): hand.error_mm for hand in worst}
    faces = None if hand_model is None else hand_model.faces
    drawn = []
    for strip in strips(predictions, units, rows, faces, stamp):
        error = error_of[place_of[strip.instance_id]]
        first, *others = strip.tiles
        drawn.append((error, [Tile(first.image, f"{error:.1f} mm  {first.caption}"), *others]))
    drawn.sort(key=lambda item: -item[0])
    return sheet([tiles for _, tiles in drawn]) if drawn else None
