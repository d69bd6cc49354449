"""Runs work on Ray: a flow on Ray Data, where one unit is one row through every stage, and plain functions."""

import contextlib
import functools
import json
import logging
import pickle
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError
from ray.util.annotations import RayDeprecationWarning

from pipeline.errors import HandoccError, Interrupted, StorageError
from pipeline.flow import Flow, Stage, Step
from pipeline.records import Counts, Unit, UnitRecord, from_ipc, to_ipc

TASKS_AHEAD = 256
# How often a unit is begun again when its worker dies, a lost node's included.
RETRIES = 2
# Over more units than these it is not the data that workers die of.
DEADLY_AT_MOST = 64
# A cluster may wait for machines as long; Ray Data's own half an hour would end a job that waits for spot capacity.
NO_PROGRESS_S = 6 * 3600.0
# The column that a row has instead of all others when its stage raised.
FAILED = "failed"

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = dict[str, Any]


class StageFailed(Exception):  # noqa: N818
    """A bug in a stage; the message is its traceback."""


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
    """Returns the record of a row; at the start a row holds nothing but its unit and whether workers died over it."""
    if "ledger" not in row:
        return UnitRecord(Unit(**json.loads(row["unit"])), deadly=bool(row["deadly"]))
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
        self.made = functools.partial(_made, make)
        # An error here would be the actor's death; it comes again with the first row, which can tell of it.
        with contextlib.suppress(Exception):
            self.made()

    def __call__(self, row: Row) -> Row:
        return _advance(self.made, row)


@functools.cache
def _made(make: Any) -> Step:
    step: Step = ray.get(make)()
    return step


def _task(row: Row, make: Any) -> Row:
    return _advance(functools.partial(_made, make), row)


def _advance(step: Callable[[], Step], row: Row) -> Row:
    """Returns the row behind a step, or one with what it raised: Ray Data shall pass over dead workers only."""
    if FAILED in row:
        return row
    try:
        return to_row(step()(from_row(row)))
    except HandoccError as error:
        return {"unit": row["unit"], FAILED: pickle.dumps(error)}
    except Exception:  # noqa: BLE001 - the driver raises it
        return {"unit": row["unit"], FAILED: pickle.dumps(StageFailed(traceback.format_exc()))}


def _map(dataset: Any, function: Any, **options: Any) -> Any:
    """Maps rows as Ray Data does, which has no named option for retries yet and warns of all others.

    `ray_remote_args_fn` would take them, but would keep stages from being fused.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map(function, **options)


def _add_stage(dataset: Any, stage: Stage) -> Any:
    # What a stage is made of may be large (weights): it lies once in the object store.
    make = ray.put(stage.make)
    if stage.actors is None:
        return _map(dataset, _task, fn_kwargs={"make": make}, num_cpus=stage.cpus, max_retries=RETRIES)
    least, most = stage.actors
    return _map(
        dataset,
        _Actor,
        fn_constructor_args=(make,),
        num_cpus=stage.cpus,
        num_gpus=stage.gpus or None,
        max_restarts=-1,
        max_task_retries=RETRIES,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
    )


def run(flow: Flow, units: Iterable[Unit]) -> Iterator[UnitRecord]:
    """Yields each unit's record when it has passed every stage, in the order in which they finish.

    Units over which workers die pass the stages once more behind all others, marked as deadly.

    Raises:
        ConfigError, Exception: what a stage raised.
        Interrupted: storage gave out under a stage, workers die of what is no sample's fault, or nothing moves.
    """
    left = {unit.unit_id: unit for unit in units}
    for deadly in (False, True):
        for record in _pass(flow, list(left.values()), deadly=deadly):
            del left[record.unit.unit_id]
            yield record
        if not left:
            return
    raise Interrupted(
        f"workers died {RETRIES + 1} times, and again alone, over {len(left)} units: {', '.join(sorted(left)[:3])}"
    )


def _pass(flow: Flow, units: Sequence[Unit], *, deadly: bool) -> Iterator[UnitRecord]:
    """Yields the records of all units but those over which workers died."""
    if not units:
        return
    calm()
    context = DataContext.get_current()
    # A block holds one unit: it must be neither split nor merged.
    context.target_max_block_size = None
    context.max_errored_blocks = DEADLY_AT_MOST
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    rows = [{"unit": unit.to_json(), "deadly": deadly} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in flow.stages:
        dataset = _add_stage(dataset, stage)
    try:
        for row in dataset.iter_rows():
            if FAILED in row:
                raise pickle.loads(row[FAILED])
            yield from_row(row)
    except StorageError as error:
        raise Interrupted(str(error)) from error
    except ExecutionTimeoutError as error:
        raise Interrupted(f"no unit moved for {NO_PROGRESS_S / 3600:g} hours, on {_nodes()}") from error
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise
        raise Interrupted(f"Ray gave up, on {_nodes()}: {_line(error)}") from error


def _nodes() -> str:
    return f"{sum(node['Alive'] for node in ray.nodes())} nodes"


def _line(error: Exception) -> str:
    """Returns an error's words in one line: their beginning and, of many, their end, where causes stand."""
    words = " ".join(str(error).split())
    return words if len(words) <= 600 else f"{words[:200]} … {words[-400:]}"


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
    # A row passed over would put all behind it in another one's place.
    context.max_errored_blocks = 0
    context.execution_options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0.0)
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=share_of_store * store
    )
    shared = {"function": ray.put(function), "items": ray.put(items)}
    numbers = [{"number": number} for number in range(len(items))]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(items))
    dataset = _map(dataset, _row_of, fn_kwargs=shared, num_cpus=cpus, max_retries=RETRIES)
    yield from dataset.iter_rows()


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
