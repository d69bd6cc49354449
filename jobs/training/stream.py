"""Training samples as they stream into a worker: windows read, decoded and augmented by Ray Data, in order."""

from collections.abc import Generator, Iterator, Sequence

from jobs.training.task import Task
from model.augmentation import AugmentationRanges
from pipeline import ray_data
from pipeline.records import Unit
from pipeline.training.order import Piece, Window
from pipeline.training.windows import ReadWindow, WindowReader

# Of Ray's object store, for what all workers together read ahead.
AHEAD = 0.5


def micro_batches(
    task: Task, *, epoch: int, first_step: int, lanes: Sequence[int], world: int
) -> Generator[list[ReadWindow]]:
    """Yields a micro-batch for each of these lanes, step by step, from a step of an epoch to its end."""
    per_lane = [list(task.order.windows(epoch, lane, first_step)) for lane in lanes]
    reader = _reader(task, task.segments, task.recipe.augmentation)
    # One window of each lane in turn, as they are used up.
    windows = [window for group in zip(*per_lane, strict=True) for window in group]
    streamed = _read_in_order(reader, windows, task.read_cpus, world)
    for group in zip(*per_lane, strict=True):
        read = [next(streamed) for _ in group]
        for start in range(group[0].skip, len(read[0].samples), task.micro_batch):
            batch = slice(start, start + task.micro_batch)
            yield [ReadWindow(one.samples[batch], one.skipped if not start else ()) for one in read]


def in_order(task: Task, rank: int, world: int) -> Iterator[ReadWindow]:
    """Yields this worker's share of the validation samples, neither shuffled nor augmented."""
    reader = _reader(task, task.validation, None)
    mine = range(rank, len(task.validation), world)
    yield from _read_in_order(reader, [_whole(task.validation, i) for i in mine], task.read_cpus, world)


def _reader(task: Task, segments: Sequence[Unit], ranges: AugmentationRanges | None) -> WindowReader:
    return WindowReader(
        segments, task.config.input_size, task.seed, ranges, task.hand_model.name, task.supervise
    )


def _whole(units: Sequence[Unit], index: int) -> Window:
    unit = units[index]
    return Window(0, 0, index, (Piece(index, 0, unit.last - unit.first, unit.first),))


def _read_in_order(
    reader: WindowReader, windows: Sequence[Window], cpus: float, world: int
) -> Iterator[ReadWindow]:
    """Yields what each window holds, in the order of the windows; `world` workers do so at the same time."""
    rows = ray_data.read_ahead(reader.row, windows, cpus=cpus, share_of_store=AHEAD / world)
    yield from map(ReadWindow.from_row, rows)
