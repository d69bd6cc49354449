"""Training samples as they stream into a worker: windows read, decoded and augmented by Ray Data, in order."""

import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import ray
from ray.data import DataContext, ExecutionResources

from jobs.training.task import Task
from model.augmentation import AugmentationRanges
from pipeline import ray_data
from pipeline.records import Unit
from pipeline.training.order import Piece, Window
from pipeline.training.windows import ReadWindow, WindowReader

# Of Ray's object store, for what all workers together read ahead; what does not fit goes to disk.
AHEAD = 0.5


def micro_batches(
    task: Task, *, epoch: int, first_step: int, lanes: Sequence[int], world: int
) -> Generator[list[ReadWindow]]:
    """Yields a micro-batch for each of these lanes, step by step, from a step of an epoch to its end."""
    per_lane = [list(task.order.windows(epoch, lane, first_step)) for lane in lanes]
    reader = _reader(task, task.segments, task.recipe.augmentation)
    # One window of each lane in turn, as they are used up.
    rows = [window for group in zip(*per_lane, strict=True) for window in group]
    streamed = read_in_order(reader, rows, task.read_cpus, world)
    for group in zip(*per_lane, strict=True):
        read = [next(streamed) for _ in group]
        for start in range(group[0].skip, len(read[0].samples), task.micro_batch):
            batch = slice(start, start + task.micro_batch)
            yield [ReadWindow(one.samples[batch], one.skipped if not start else ()) for one in read]


def in_order(task: Task, rank: int, world: int) -> Iterator[ReadWindow]:
    """Yields this worker's share of the validation samples, neither shuffled nor augmented."""
    reader = _reader(task, task.validation, None)
    mine = range(rank, len(task.validation), world)
    yield from read_in_order(reader, [_whole(task.validation, i) for i in mine], task.read_cpus, world)


def _reader(task: Task, segments: Sequence[Unit], ranges: AugmentationRanges | None) -> WindowReader:
    return WindowReader(
        segments, task.config.input_size, task.seed, ranges, task.hand_model.name, task.supervise
    )


def _whole(units: Sequence[Unit], index: int) -> Window:
    unit = units[index]
    return Window(0, 0, index, (Piece(index, 0, unit.last - unit.first, unit.first),))


def read_in_order(
    reader: WindowReader, windows: Sequence[Window], cpus: float, world: int = 1
) -> Iterator[ReadWindow]:
    """Yields what each window holds, in the order of the windows, read ahead by Ray tasks.

    world: how many workers read at the same time, each by itself.
    """
    if not windows:
        return
    ray_data.calm()
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.execution_options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0.0)
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=AHEAD * store / world
    )
    rows = [{"window": number} for number in range(len(windows))]
    shared = {"reader": ray.put(reader), "windows": ray.put(windows)}
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _read, fn_kwargs=shared, num_cpus=cpus
    )
    for row in dataset.iter_rows():
        yield ReadWindow.from_row(row)


def _read(row: dict[str, Any], reader: Any, windows: Any) -> dict[str, Any]:
    read: WindowReader = _unpacked(reader)
    window: Window = _unpacked(windows)[row["window"]]
    return read(window).to_row()


@functools.lru_cache(maxsize=4)
def _unpacked(reference: Any) -> Any:
    """What lies in the object store: unpacking it takes longer than reading a window, where shards are many."""
    return ray.get(reference)
