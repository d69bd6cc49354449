"""A run of training that is killed goes on as if nothing had happened: the same data, the same curve, no line twice."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.training import checkpoints
from pipeline import storage
from tests.s3_faults import Service
from tests.training_runs import (
    STEPS,
    checkpointed,
    curve,
    ended,
    go_within,
    is_gone,
    rows,
    start,
    training_workers,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> NDArray[np.float64]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    status, said = ended(start(str(shards), str(output), "--log-steps", "1"))
    assert status == 0, said
    return curve(str(output))


def test_two_workers_take_the_steps_of_one_that_accumulates(
    tmp_path: Path, shards: Path, undisturbed: NDArray[np.float64]
) -> None:
    output = str(tmp_path / "out")
    status, said = ended(start(str(shards), output, "--log-steps", "1", "--workers", "2"))
    assert status == 0, said
    # The gradients are summed in another order, which Adam's first steps, whose size does not depend on that of
    # the gradient, make larger and larger.
    np.testing.assert_allclose(curve(output)[0], undisturbed[0], rtol=1e-6)
    np.testing.assert_allclose(curve(output)[:2], undisturbed[:2], rtol=5e-4)
    np.testing.assert_allclose(curve(output), undisturbed, rtol=5e-2)


def test_a_killed_worker_is_replaced_and_the_curve_goes_on(
    tmp_path: Path, shards: Path, undisturbed: NDArray[np.float64]
) -> None:
    output = str(tmp_path / "out")
    process = start(str(shards), output, "--log-steps", "1", "--max-failures", "1")
    wait_for(lambda: checkpointed(output), process)
    [worker] = training_workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    status, said = ended(process)
    assert status == 0, said
    np.testing.assert_allclose(curve(output), undisturbed, rtol=1e-4)


def killed(shards: str, output: str, *options: str) -> None:
    """Starts a run and kills its driver when the first checkpoint is there; waits until its workers are gone."""
    process = start(shards, output, *options)
    wait_for(lambda: checkpointed(output), process)
    left = training_workers(process.pid)
    process.kill()
    process.communicate()
    assert go_within(left, 60), "workers outlive their driver"


def means(values: NDArray[np.float64], steps_a_row: int) -> list[float]:
    return [float(values[i : i + steps_a_row].mean()) for i in range(0, len(values), steps_a_row)]


def test_a_killed_driver_goes_on_from_the_last_checkpoint(
    tmp_path: Path, shards: Path, undisturbed: NDArray[np.float64]
) -> None:
    output = str(tmp_path / "out")
    # A row of three steps has been begun at the checkpoint, and no epoch has ended, of which validation makes a score.
    options = ("--log-steps", "3", "--validation", str(shards))
    killed(str(shards), output, *options)
    assert all(row["step"] < STEPS for row in rows(output))
    run = tmp_path / "out" / checkpoints.RUN
    # As if the kill had come while a checkpoint was written, and the list of them.
    half = run / "checkpoint_2099-01-01_00-00-00.000000"
    half.mkdir()
    (half / checkpoints.STATE).write_bytes(b"PK\x03\x04 and no more")
    (run / "checkpoint_manager_snapshot.json").write_bytes(b"")
    status, said = ended(start(str(shards), output, *options, "--resume"))
    assert status == 0, said
    np.testing.assert_allclose(curve(output, 3), means(undisturbed, 3), rtol=1e-4)
    assert not (half / checkpoints.STATE).exists()
    assert 1 <= len(list(run.glob("checkpoint_20*/state.pt"))) <= 3
    # Once more: nothing is left to do, and nothing changes.
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "weights").iterdir()}
    text = (tmp_path / "out" / "metrics.jsonl").read_text()
    status, said = ended(start(str(shards), output, *options, "--resume"))
    assert status == 0, said
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "weights").iterdir()} == before
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == text


def test_a_run_on_s3_goes_on_from_s3(s3: Service, shards: Path, undisturbed: NDArray[np.float64]) -> None:
    inputs, output = f"{s3.bucket}/in", f"{s3.bucket}/out"
    for shard in shards.glob("*.tar"):
        storage.put(storage.join(inputs, shard.name), shard.read_bytes())
    # Checkpoints of the epochs only: a stand-in for S3 takes long over each.
    options = ("--log-steps", "1", "--checkpoint-steps", str(STEPS))
    killed(inputs, output, *options)
    assert all(row["step"] < STEPS for row in rows(output))
    status, said = ended(start(inputs, output, *options, "--resume"))
    assert status == 0, said
    np.testing.assert_allclose(curve(output), undisturbed, rtol=1e-4)
    found = {storage.key_below(output, file.uri) for file in storage.list_files(output)}
    assert {"weights/last.safetensors", "job.json", "metrics.jsonl"} <= found
    assert len([name for name in found if name.startswith("tensorboard/")]) == 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_status_3_and_names_the_way_on(
    tmp_path: Path, shards: Path, sent: signal.Signals
) -> None:
    output = str(tmp_path / "out")
    process = start(str(shards), output)
    wait_for(lambda: checkpointed(output), process)
    left = training_workers(process.pid)
    process.send_signal(sent)
    status, said = ended(process)
    assert status == 3, said
    way_on = "the same command with --resume continues from the last checkpoint"
    assert said.splitlines()[-1] == f"handocc train: interrupted; {way_on}"
    assert "Traceback" not in said
    assert go_within(left, 60), "workers outlive their driver"


def test_a_worker_that_dies_too_often_ends_the_run_in_one_line(tmp_path: Path, shards: Path) -> None:
    output = str(tmp_path / "out")
    process = start(str(shards), output, "--max-failures", "1")
    wait_for(lambda: checkpointed(output), process)
    metrics = tmp_path / "out" / "metrics.jsonl"
    [first] = training_workers(process.pid)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: is_gone(first), process)
    written = metrics.stat().st_mtime_ns
    # The replacement publishes where it begins.
    wait_for(lambda: metrics.stat().st_mtime_ns > written, process)
    for worker in training_workers(process.pid):
        os.kill(worker, signal.SIGKILL)
    status, said = ended(process)
    assert status == 3, said
    assert said.splitlines()[-1].startswith("handocc train: workers died, more often than --max-failures 1;")
    assert "Traceback" not in said
