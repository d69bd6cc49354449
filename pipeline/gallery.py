"""Pictures of stored annotations: the image, what was found in it, the mesh over it and from its side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import render
from pipeline.boxes.box_source import camera_of
from pipeline.camera import project
from pipeline.errors import DataError
from pipeline.pictures import samples_of
from pipeline.records import Sample, Unit
from pipeline.render import Tile
from pipeline.sinks.meshes import read_mesh
from pipeline.sinks.parts import Part, read_table
from pipeline.stages.decode import decode_image

AROUND = 1.8
CLOSE_UP = 512
TRUTH = (236, 178, 92)
LABEL_INDEX = "label_index"  # a column of rows of whose labels somebody knows which is theirs

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """The pictures of one hand, side by side, with captions."""

    instance_id: str
    tiles: tuple[Tile, ...]


def choose_rows(output: str, units: Mapping[str, Unit], parts: Mapping[str, Part], count: int) -> pa.Table:
    """Returns about `count` annotation rows, spread over the units that have hands."""
    filled = [name for name, part in parts.items() if part.counts.hands_annotated]
    if not filled:
        return pa.table({})
    step = max(1, len(filled) // count)
    chosen = filled[::step][:count]
    each = -(-count // len(chosen))
    tables = []
    for name in chosen:
        table = read_table(output, "annotations", parts[name])
        rows = np.unique(np.linspace(0, table.num_rows - 1, min(each, table.num_rows)).astype(int))
        picked = table.take(rows).replace_schema_metadata(None)
        tables.append(picked.append_column("unit_id", pa.array([units[name].unit_id] * len(rows))))
    return pa.concat_tables(tables).slice(0, count)


def strips(
    output: str, units: Mapping[str, Unit], rows: pa.Table, faces: NDArray[np.int64] | None, stamp: str | None
) -> Iterator[Strip]:
    """Yields the pictures of annotation rows; each unit's input is read once.

    faces: those of a right hand, for rows that hold vertices; stamp: a word across every prediction.
    """
    for row, sample in rows_with_samples(output, units, rows):
        yield strip(output, row, sample, faces, stamp)


def rows_with_samples(
    output: str, units: Mapping[str, Unit], rows: pa.Table
) -> Iterator[tuple[dict[str, Any], Sample]]:
    """Yields annotation rows and their samples, without those whose input cannot be read any more."""
    for unit_id in dict.fromkeys(rows["unit_id"].to_pylist()):
        of_unit = rows.filter(pa.compute.equal(rows["unit_id"], unit_id))
        for found, sample in samples_of(output, units[unit_id], of_unit, range(of_unit.num_rows)):
            if sample.error is None:
                for row in of_unit.take(found).to_pylist():
                    yield row, sample


def image_of(sample: Sample) -> Picture:
    """Returns a sample's picture.

    Raises:
        DataError: it cannot be decoded.
    """
    return decode_image(sample.image) if isinstance(sample.image, bytes) else sample.image


def strip(
    output: str, row: Mapping[str, Any], sample: Sample, faces: NDArray[np.int64] | None, stamp: str | None
) -> Strip:
    """Returns the pictures of an annotation row, whose sample can be read; see `strips`."""
    try:
        image = image_of(sample)
    except DataError as error:
        # It was decoded when it was annotated: the input has changed since.
        return Strip(row["instance_id"], (Tile(np.zeros((64, 64, 3), np.uint8), str(error)),))
    view = _CloseUp(image, np.array(row["bbox"]))
    joints_2d = view.to_view(np.array(row["joints_2d"]))
    seen = render.draw_bbox(view.picture, view.box)
    skeleton = render.draw_skeleton(view.picture, joints_2d)
    frame = "" if row["frame_index"] is None else f" frame {row['frame_index']}"
    name = f"{row['key']}{frame} #{row['hand_index']} {row['side']}"
    tiles = [Tile(seen, name), Tile(_stamped(skeleton, stamp), f"joints, confidence {row['confidence']:.2f}")]
    mesh = _mesh(output, row, faces)
    if mesh is not None:
        vertices, triangles = mesh
        laid = render.draw_mesh(view.picture, vertices, _points(view, row, vertices, joints_2d), triangles)
        side = render.side_view(vertices, triangles, size=CLOSE_UP)
        tiles += [Tile(_stamped(laid, stamp), "mesh"), Tile(_stamped(side, stamp), "from its side")]
    truth = _truth(view, row, sample, mesh)
    return Strip(row["instance_id"], (*tiles, *([] if truth is None else [Tile(truth, "ground truth")])))


def _points(
    view: "_CloseUp", row: Mapping[str, Any], vertices: NDArray[np.float32], joints_2d: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Returns the view's pixels of a mesh: as its camera sees it where it stands, or laid on the joints found."""
    if row["translation"] is not None and row["camera"] is not None:
        moved = vertices.astype(np.float64) + row["translation"]
        if moved[:, 2].min() > 0:
            return view.to_view(project(moved, np.array(row["camera"], np.float64)))
    return render.weak_perspective(np.array(row["joints"]), joints_2d).project(vertices)


def _stamped(picture: Picture, word: str | None) -> Picture:
    return picture if word is None else render.stamp(picture, word)


def _mesh(
    output: str, row: Mapping[str, Any], faces: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    if row["mesh"] is not None:
        return read_mesh(output, row["mesh"])
    if faces is None or "vertices" not in row:
        return None
    turned = faces[:, ::-1] if row["side"] == "left" else faces
    return np.array(row["vertices"], np.float32), turned


def _truth(view: "_CloseUp", row: Mapping[str, Any], sample: Sample, mesh: Any) -> Picture | None:
    """Draws what the input's own label says of the hand, if it says so much.

    Only the label's own boxes name its hands, or a column `LABEL_INDEX`.
    """
    index = row.get(LABEL_INDEX, row["hand_index"] if row["bbox_source"] == "given" else None)
    hands = sample.hands if isinstance(sample.hands, list) else []
    hand = hands[index] if index is not None and index < len(hands) else None
    joints_2d = _numbers(hand, "joints_2d", (21, 2))
    if joints_2d is None:
        return None
    camera = camera_of(sample.camera)
    # The triangles are those of the annotation's side.
    same_side = mesh is not None and isinstance(hand, dict) and hand.get("side") == row["side"]
    vertices = _numbers(hand, "vertices", mesh[0].shape) if same_side else None
    if camera is None or isinstance(camera, DataError) or vertices is None or vertices[:, 2].min() <= 0:
        return render.draw_skeleton(view.picture, view.to_view(joints_2d))
    points = view.to_view(project(vertices, np.array(camera)))
    return render.draw_mesh(view.picture, vertices, points, mesh[1], colour=TRUTH)


def _numbers(hand: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Returns what a label says of a hand under a name, None where it is not an array of that shape of numbers."""
    try:
        values = np.array(hand[name], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return values if values.shape == shape and np.isfinite(values).all() else None


class _CloseUp:
    """A square view around a box, scaled to a size at which drawings are legible."""

    def __init__(self, image: Picture, bbox: NDArray[np.float64]) -> None:
        x, y, w, h = bbox
        side = min(AROUND * max(w, h), 1.2 * max(image.shape[:2]))
        self.scale = CLOSE_UP / side
        self.origin = np.array([x + w / 2, y + h / 2]) - side / 2
        matrix = np.array([[self.scale, 0, 0], [0, self.scale, 0]])
        matrix[:, 2] = -self.scale * self.origin
        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        self.picture = np.asarray(cv2.warpAffine(image, matrix, (CLOSE_UP, CLOSE_UP), flags=how), np.uint8)
        self.box = [*self.to_view(np.array([x, y])), w * self.scale, h * self.scale]

    def to_view(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Moves pixels of the image to pixels of the view."""
        moved: NDArray[np.float64] = (points - self.origin) * self.scale
        return moved
