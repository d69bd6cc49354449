"""The pictures of annotated hands, read again from the unit's input."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.cut import version_of
from pipeline.errors import DataError
from pipeline.plan import load_keys, planned_versions
from pipeline.records import Sample, Unit
from pipeline.sources import SOURCES
from pipeline.sources.video_index import Frame
from pipeline.stages.decode import decode_image


def samples_of(
    predictions: str, unit: Unit, table: pa.Table, rows: Sequence[int]
) -> Iterator[tuple[list[int], Sample]]:
    """Yields each sample that rows of a unit's annotations are of, once and in order, with those rows.

    predictions: the output of annotate, which has the plan. A sample that is gone has its error.
    """
    keys, frames = table["key"].to_pylist(), table["frame_index"].to_pylist()
    wanted: dict[tuple[str, int | None], list[int]] = {}
    for row in rows:
        wanted.setdefault((keys[row], frames[row]), []).append(row)
    planned = load_keys(predictions, unit)
    # Loose images and films give any of their samples; shards and tables are read up to the last that is wanted.
    if unit.source == "images":
        planned = [key for key in planned if (key, None) in wanted]
    elif unit.source == "video":
        shown = {frame for _, frame in wanted}
        planned = [key for key in planned if Frame.from_key(key).frame_index in shown]
    then = planned_versions(predictions, unit) if unit.source == "images" else {}
    for sample in SOURCES[unit.source].read(unit, planned):
        found = wanted.pop((sample.key, sample.frame_index), None)
        if found is not None:
            yield found, _unchanged(unit, sample, then)
        if not wanted:
            return
    for (key, frame), found in wanted.items():
        yield (
            found,
            Sample(key, frame_index=frame, error=DataError("missing sample", "its input has changed")),
        )


def _unchanged(unit: Unit, sample: Sample, planned: Mapping[str, str]) -> Sample:
    """Returns the sample, without its picture where that is another one than was planned; shards look themselves."""
    if sample.key in planned and sample.error is None:
        now = storage.stat(storage.below(unit.input, sample.key))
        if now is None or version_of(now) != planned[sample.key]:
            changed = DataError("changed input", "it is not the picture that was annotated; annotate it anew")
            return Sample(sample.key, error=changed)
    return sample


def pictures_of(
    predictions: str, unit: Unit, table: pa.Table, rows: Sequence[int]
) -> Iterator[tuple[list[int], NDArray[np.uint8] | DataError]]:
    """Yields the same as upright RGB pixels, or why there are none."""
    for found, sample in samples_of(predictions, unit, table, rows):
        yield found, pixels(sample)


def pixels(sample: Sample) -> NDArray[np.uint8] | DataError:
    """Returns a sample's upright RGB pixels (H, W, 3), or why there are none."""
    if sample.error is not None:
        return sample.error
    try:
        return decode_image(sample.image) if isinstance(sample.image, bytes) else sample.image
    except DataError as error:
        return error
