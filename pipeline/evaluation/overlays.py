"""Pictures of the worst hands: the image, the prediction over it and from its side, and the truth."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from model.mano.asset import HandModel
from pipeline.columns import fixed_lists
from pipeline.evaluation.hands import HandPoser, predicted_vertices, rows_of
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
    tables, error_of = [], dict[str, float]()
    for unit_id in dict.fromkeys(hand.unit_id for hand in worst):
        hands = [hand for hand in worst if hand.unit_id == unit_id]
        table = read_table(predictions, "annotations", parts[unit_id])
        # In the order of the annotations, so that a picture with several of them is read once.
        rows = rows_of(table, [hand.key for hand in hands], [hand.annotated_index for hand in hands])
        order = np.argsort(rows)
        table, hands = table.take(rows[order]), [hands[number] for number in order]
        error_of |= zip(table["instance_id"].to_pylist(), (hand.error_mm for hand in hands), strict=True)
        labels = pa.array([hand.hand_index for hand in hands], pa.int32())
        table = table.append_column(LABEL_INDEX, labels)
        if "vertices" not in table.column_names and poser is not None:
            posed = predicted_vertices(table, poser)
            assert posed is not None
            field = ANNOTATIONS.field("vertices")
            table = table.append_column(field, fixed_lists(posed.astype(np.float32), field.type))
        tables.append(table.append_column("unit_id", pa.array([unit_id] * table.num_rows)))
    shown = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    faces = None if hand_model is None else hand_model.faces
    drawn = []
    for strip in strips(predictions, units, shown, faces, stamp):
        error = error_of[strip.instance_id]
        first, *others = strip.tiles
        drawn.append((error, [Tile(first.image, f"{error:.1f} mm  {first.caption}"), *others]))
    drawn.sort(key=lambda item: -item[0])
    return sheet([tiles for _, tiles in drawn]) if drawn else None
