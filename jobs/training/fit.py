"""Has Ray Train run a task on its workers, and says in one line why it could not."""

import re
import signal

import ray.exceptions
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from jobs.console import say
from jobs.training.board import Board
from jobs.training.checkpoints import RUN, SCORE
from jobs.training.loop import train
from jobs.training.staff import Staff
from jobs.training.task import Task
from pipeline import storage
from pipeline.errors import ConfigError, Interrupted, StorageError

MEMORY = "another run with a smaller --micro-batch needs less"
_STORAGE_ERROR = re.compile(rf"{StorageError.__module__}\.{StorageError.__qualname__}: (.+)")
_GPU_MEMORY = re.compile(r"torch\.(cuda\.)?OutOfMemoryError")
_MISSING = re.compile(r"gloo/transport|Dist(Backend|Network|Store)Error")


def fit(task: Task, staff: Staff, *, keep: int, max_failures: int) -> None:
    """Trains to the task's last step, from the last checkpoint on.

    Raises:
        ConfigError: the data or the settings do not let it go on.
        Interrupted: workers died more often than max_failures.
    """
    board = Board()
    trainer = _trainer(task, staff, board, keep, max_failures)
    with board.shown(say):
        try:
            _run(trainer)
        except TrainingFailedError as error:
            if reason := board.reason():
                raise ConfigError(reason) from error
            _explain(error, max_failures)
            raise
    if reason := board.reason():
        raise ConfigError(reason)
    if passed_over := board.passed_over():
        say(f"passed over {passed_over} pictures that cannot be used, in every epoch")


def _trainer(task: Task, staff: Staff, board: Board, keep: int, max_failures: int) -> TorchTrainer:
    filesystem, path = storage.arrow_filesystem(task.output)
    resources = {"CPU": staff.cpus} | ({"GPU": staff.gpus} if staff.gpus else {})
    best = {"checkpoint_score_attribute": SCORE, "checkpoint_score_order": "min"} if task.validation else {}
    return TorchTrainer(
        train,
        train_loop_config={"task": task, "board": board},
        torch_config=TorchConfig(backend="nccl" if staff.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=staff.least if staff.least == staff.most else (staff.least, staff.most),
            use_gpu=bool(staff.gpus),
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=keep, **best),
        ),
    )


def _run(trainer: TorchTrainer) -> None:
    """Runs it; Ray Train takes Ctrl-C for itself, ends the workers, and then the process with status 0."""
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)


def _explain(error: TrainingFailedError, max_failures: int) -> None:
    """Raises what a person can act on; what it lets pass is a bug.

    Ray Train hands on what a worker raised as text only.
    """
    if isinstance(error, ControllerError):
        raise Interrupted(f"Ray Train gave up: {_line(error.controller_failure)}") from error
    if told := _STORAGE_ERROR.search(str(error)):
        raise Interrupted(told[1]) from error
    if _GPU_MEMORY.search(str(error)):
        raise Interrupted(f"the memory of a GPU ran out; {MEMORY}") from error
    assert isinstance(error, WorkerGroupError), error
    failures = [getattr(one, "health_check_failure", one) for one in error.worker_failures.values()]
    died = any(isinstance(one, ray.exceptions.RayActorError) for one in failures)
    # The workers that are left miss the one that died.
    if died or _MISSING.search(str(error)):
        raise Interrupted(
            f"workers died, more often than --max-failures {max_failures}; if memory ran out, {MEMORY}"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
