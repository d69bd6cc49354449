"""Runs work on Ray: a flow on Ray Data, where one unit is one row through every stage, and plain functions."""

import functools
import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.errors import HandoccError, Interrupted, StorageError
from pipeline.flow import Flow, Stage, Step
from pipeline.records import Counts, Unit, UnitRecord, from_ipc, to_ipc

TASKS_AHEAD = 256

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = dict[str, Any]
_STORAGE_ERROR = re.compile(rf"^{StorageError.__module__}\.{StorageError.__qualname__}: (.+)$", re.MULTILINE)


def to_row(record: UnitRecord) -> Row:
    """Returns a record as one row; the crops stay an array, which Ray hands on without copying."""
    return {
        "unit": record.unit.to_json(),
        "ledger": to_ipc(record.ledger),
        "hands": to_ipc(record.hands),
        "crops": record.crops,
        "counts": record.counts.to_json(),
        "seconds": json.dumps(dict(record.seconds)),
    }


def from_row(row: Row) -> UnitRecord:
    """Returns the record of a row; at the start a row holds nothing but its unit."""
    if len(row) == 1:
        return UnitRecord(Unit(**json.loads(row["unit"])))
    return UnitRecord(
        unit=Unit(**json.loads(row["unit"])),
        ledger=from_ipc(row["ledger"]),
        hands=from_ipc(row["hands"]),
        crops=np.asarray(row["crops"]),
        counts=Counts.from_json(row["counts"]),
        seconds=json.loads(row["seconds"]),
    )


class _Actor:
    """Keeps what a stage built, for all the units that come to this worker."""

    def __init__(self, make: Any) -> None:
        self.step: Step = ray.get(make)()

    def __call__(self, row: Row) -> Row:
        return to_row(self.step(from_row(row)))


@functools.cache
def _made(make: Any) -> Step:
    step: Step = ray.get(make)()
    return step


def _task(row: Row, make: Any) -> Row:
    return to_row(_made(make)(from_row(row)))


def _add_stage(dataset: Any, stage: Stage) -> Any:
    # What a stage is made of may be large (weights): it lies once in the object store.
    make = ray.put(stage.make)
    if stage.actors is None:
        return dataset.map(_task, fn_kwargs={"make": make}, num_cpus=stage.cpus)
    least, most = stage.actors
    return dataset.map(
        _Actor,
        fn_constructor_args=(make,),
        num_cpus=stage.cpus,
        num_gpus=stage.gpus or None,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
    )


def run(flow: Flow, units: Iterable[Unit]) -> Iterator[UnitRecord]:
    """Yields each unit's record when it has passed every stage, in the order in which they finish.

    Raises:
        Interrupted: storage gave out under a stage, or fewer units came out than went in.
    """
    calm()
    context = DataContext.get_current()
    # A block holds one unit: it must be neither split nor merged.
    context.target_max_block_size = None
    rows = [{"unit": unit.to_json()} for unit in units]
    if not rows:
        return
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in flow.stages:
        dataset = _add_stage(dataset, stage)
    finished = 0
    try:
        for row in dataset.iter_rows():
            finished += 1
            yield from_row(row)
    except ray.exceptions.RayTaskError as error:
        # Ray hands on what a stage raised as text only.
        told = _STORAGE_ERROR.search(str(error))
        if told is None:
            raise
        raise Interrupted(told[1]) from error
    if finished < len(rows):
        raise Interrupted(f"Ray lost {len(rows) - finished} of {len(rows)} units on the way")


class Unhurried(ExecutionCallback):  # type: ignore[misc]
    """Makes every round of Ray Data's scheduling last 20 ms at least.

    While what is finished waits to be consumed, a round waits for nothing, and the scheduler's thread would keep one
    CPU and the interpreter's lock to itself: a network that trains in the same process ran at a third of its speed.
    """

    LEAST_S = 0.02

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        time.sleep(max(0.0, self.last + self.LEAST_S - time.monotonic()))
        self.last = time.monotonic()


def calm() -> None:
    """Keeps Ray Data's progress bars and notices off the console, and its scheduler from running hot."""
    context = DataContext.get_current()
    context.custom_execution_callback_classes = [Unhurried]
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # What goes wrong comes as an exception.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def read_ahead(
    function: Callable[[Item], Row], items: Sequence[Item], *, cpus: float, share_of_store: float
) -> Iterator[Row]:
    """Yields the function's row of each item, in order, while Ray Data's tasks work on the next ones.

    cpus: what each of them claims. share_of_store: how much of Ray's object store may be full of rows that wait;
    what does not fit goes to disk.
    """
    if not items:
        return
    calm()
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.execution_options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0.0)
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=share_of_store * store
    )
    shared = {"function": ray.put(function), "items": ray.put(items)}
    numbers = [{"number": number} for number in range(len(items))]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(items))
    yield from dataset.map(_row_of, fn_kwargs=shared, num_cpus=cpus).iter_rows()


def _row_of(row: Row, function: Any, items: Any) -> Row:
    result: Row = _unpacked(function)(_unpacked(items)[row["number"]])
    return result


@functools.lru_cache(maxsize=4)
def _unpacked(reference: Any) -> Any:
    """What lies in the object store: unpacking it takes longer than a task's work, where items are many."""
    return ray.get(reference)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields the function's result for each item, in order, computed as Ray tasks.

    So many are begun before the first is needed that an autoscaler sees the work, and no more than the driver
    can hold. A HandoccError that the function raises is raised here as it was there.
    """
    # Such a task waits for storage half of the time.
    task = ray.remote(num_cpus=0.5)(_call)
    shared = ray.put(function)
    begun: deque[Any] = deque()
    for item in items:
        begun.append(task.remote(shared, item))
        if len(begun) >= TASKS_AHEAD:
            yield _result(begun.popleft())
    while begun:
        yield _result(begun.popleft())


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HandoccError):
            raise error.cause from error
        raise
