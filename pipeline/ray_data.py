"""Runs work on Ray: a flow on Ray Data, where one unit is one row through every stage, and plain functions."""

import contextlib
import functools
import json
import logging
import pickle
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import HandoccError, Interrupted, StorageError
from pipeline.flow import Flow, Stage, Step
from pipeline.records import Counts, Unit, UnitRecord, from_ipc, to_ipc
from pipeline.tries import Tries

TASKS_AHEAD = 256
# A unit over which so many workers died is deadly, and one over which twice as many did is left for another pass.
# Ray's own retries are without end: it counts what never reached a worker, too, and gave up what lost one node; and a
# stream whose retries are used up when a node is lost may never end (https://github.com/ray-project/ray/issues/39109).
TRIES = 3
# Over more units than these, and than one in a hundred, it is not the data that workers die of.
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


class WorkersDied(Exception):  # noqa: N818
    """No worker survived a step; the message says which, and over which unit."""


def to_row(record: UnitRecord) -> Row:
    """Returns a record as one row; the crops stay an array, which Ray hands on without copying."""
    return {
        "unit": record.unit.to_json(),
        "ledger": to_ipc(record.ledger),
        "hands": to_ipc(record.hands),
        "crops": record.crops,
        "counts": record.counts.to_json(),
        "seconds": json.dumps(dict(record.seconds)),
        "deadly": record.deadly,
    }


def from_row(row: Row) -> UnitRecord:
    """Returns the record of a row; at the start a row holds nothing but its unit."""
    if "ledger" not in row:
        return UnitRecord(Unit(**json.loads(row["unit"])))
    return UnitRecord(
        unit=Unit(**json.loads(row["unit"])),
        ledger=from_ipc(row["ledger"]),
        hands=from_ipc(row["hands"]),
        crops=np.asarray(row["crops"]),
        counts=Counts.from_json(row["counts"]),
        seconds=json.loads(row["seconds"]),
        deadly=bool(row["deadly"]),
    )


class _Actor:
    """Keeps what a stage built, for all the units that come to this worker."""

    def __init__(self, name: str, make: Any, tries: Any) -> None:
        self.name, self.make, self.tries = name, make, tries
        # An actor that dies here is started again without end, and keeps its id.
        begun = f"building {name} in {ray.get_runtime_context().get_actor_id()}"
        self.deaths = ray.get(tries.begin.remote(begun)) - 1
        # An error here would be the actor's death; it comes again with the first row, which can tell of it.
        with contextlib.suppress(Exception):
            self.step()
        tries.end.remote(begun)

    def step(self) -> Step:
        if self.deaths >= 2 * TRIES:
            raise Interrupted(
                f"{self.name}: {self.deaths} workers died one after another while they started; is there memory for it?"
            )
        return _made(self.make)

    def __call__(self, row: Row) -> Row:
        return _advance(row, self.name, self.step, self.tries)


@functools.lru_cache(maxsize=8)
def _made(make: Any) -> Step:
    step: Step = ray.get(make)()
    return step


def _task(row: Row, name: str, make: Any, tries: Any) -> Row:
    return _advance(row, name, functools.partial(_made, make), tries)


def _advance(row: Row, name: str, step: Callable[[], Step], tries: Any) -> Row:
    """Returns the row behind a step, or one with what it raised: Ray Data shall pass over what Ray lost only."""
    if FAILED in row:
        return row
    try:
        record = from_row(row)
        tried = f"{name} of {record.unit.unit_id}"
        deaths = ray.get(tries.begin.remote(tried)) - 1
        if deaths >= 2 * TRIES:
            raise WorkersDied(tried)
        record = replace(record, deadly=record.deadly or deaths >= TRIES)
        result = to_row(step()(record))
        tries.end.remote(tried)
        return result
    except (HandoccError, WorkersDied) as error:
        return {"unit": row["unit"], FAILED: pickle.dumps(error)}
    except Exception:  # noqa: BLE001 - the driver raises it
        return {"unit": row["unit"], FAILED: pickle.dumps(StageFailed(traceback.format_exc()))}


def _add_stage(dataset: Any, stage: Stage, tries: Any) -> Any:
    # What a stage is made of may be large (weights): it lies once in the object store.
    made_of = {"name": stage.name, "make": ray.put(stage.make), "tries": tries}
    if stage.actors is None:
        return dataset.map(_task, fn_kwargs=made_of, num_cpus=stage.cpus)
    least, most = stage.actors
    return dataset.map(
        _Actor,
        fn_constructor_kwargs=made_of,
        num_cpus=stage.cpus,
        num_gpus=stage.gpus or None,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
    )


def _count_tries() -> Any:
    """Starts a counter beside the driver, where no lost node takes it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(Tries).remote()


def run(flow: Flow, units: Iterable[Unit]) -> Iterator[UnitRecord]:
    """Yields each unit's record when it has passed every stage, in the order in which they finish.

    What did not come out passes the stages once more, for as long as that brings at least one unit.

    Raises:
        ConfigError, Exception: what a stage raised.
        Interrupted: storage gave out under a stage, workers die of what is no sample's fault, or nothing moves.
    """
    left = {unit.unit_id: unit for unit in units}
    while left:
        died: list[str] = []
        before = len(left)
        for record in _pass(flow, list(left.values()), died):
            del left[record.unit.unit_id]
            yield record
        if len(left) == before:
            why = f"workers died {2 * TRIES} times over " if died else "Ray lost, without a word, "
            raise Interrupted(f"{why}{', '.join(sorted(died or left)[:3])}; {len(left)} units are left")


def _pass(flow: Flow, units: Sequence[Unit], died: list[str]) -> Iterator[UnitRecord]:
    """Yields the records of all units but those that Ray lost and those over which no worker survived.

    died: takes what each of the latter ended in.
    """
    calm()
    context = DataContext.get_current()
    # A block holds one unit: it must be neither split nor merged.
    context.target_max_block_size = None
    context.max_errored_blocks = DEADLY_AT_MOST
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    rows = [{"unit": unit.to_json()} for unit in units]
    waiting = {unit.unit_id for unit in units}
    tries = _count_tries()
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in flow.stages:
        dataset = _add_stage(dataset, stage, tries)
    deadly = 0
    try:
        for number, row in enumerate(dataset.iter_rows()):
            if FAILED not in row:
                record = from_row(row)
                waiting.remove(record.unit.unit_id)
                deadly += record.deadly
                yield record
            elif isinstance(error := pickle.loads(row[FAILED]), WorkersDied):
                deadly += 1
                died.append(str(error))
            else:
                raise error
            if deadly > max(DEADLY_AT_MOST, number / 100):
                raise Interrupted(f"workers died {TRIES} times and more over {deadly} of {number + 1} units")
    except StorageError as error:
        raise Interrupted(str(error)) from error
    except ExecutionTimeoutError as error:
        raise Interrupted(
            f"no unit moved for {NO_PROGRESS_S / 3600:g} hours, on {_nodes()}; {len(waiting)} are left, "
            f"{', '.join(sorted(waiting)[:3])} among them"
        ) from error
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
    shared = {"function": ray.put(function), "items": ray.put(items), "tries": _count_tries()}
    numbers = [{"number": number} for number in range(len(items))]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(items))
    yield from dataset.map(_row_of, fn_kwargs=shared, num_cpus=cpus).iter_rows()


def _row_of(row: Row, function: Any, items: Any, tries: Any) -> Row:
    tried = f"item {row['number']}"
    if ray.get(tries.begin.remote(tried)) > TRIES:
        raise WorkersDied(tried)
    result: Row = _unpacked(function)(_unpacked(items)[row["number"]])
    tries.end.remote(tried)
    return result


@functools.lru_cache(maxsize=4)
def _unpacked(reference: Any) -> Any:
    """What lies in the object store: unpacking it takes longer than a task's work, where items are many."""
    return ray.get(reference)


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    carefully: Callable[[Item], Result] | None = None,
) -> Iterator[Result]:
    """Yields the function's result for each item, in order, computed as Ray tasks.

    So many are begun before the first is needed that an autoscaler sees the work, and no more than the driver
    can hold. carefully: takes the function's place for an item over which workers died.

    Raises:
        HandoccError: what the function raised, as it was there.
        Interrupted: an item costs one worker after another, or Ray gave up.
    """
    # Such a task waits for storage half of the time.
    task = ray.remote(num_cpus=0.5, max_retries=-1)(_call)
    shared = {"function": ray.put(function), "carefully": ray.put(carefully), "tries": _count_tries()}
    begun: deque[Any] = deque()
    for number, item in enumerate(items):
        begun.append(task.remote(item, number, **shared))
        if len(begun) >= TASKS_AHEAD:
            yield _result(begun.popleft())
    while begun:
        yield _result(begun.popleft())


def _call(item: Any, number: int, function: Any, carefully: Any, tries: Any) -> Any:
    tried = f"item {number}"
    deaths = ray.get(tries.begin.remote(tried)) - 1
    if deaths >= 2 * TRIES or (deaths >= TRIES and carefully is None):
        raise Interrupted(f"{deaths} workers died over {str(item)[:300]}")
    result = (carefully if deaths >= TRIES else function)(item)
    tries.end.remote(tried)
    return result


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HandoccError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise Interrupted(f"Ray gave up, on {_nodes()}: {_line(error)}") from error
