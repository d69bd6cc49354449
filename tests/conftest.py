"""What the tests share: the command as a person runs it, a small labelled set, and where local material lies."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.s3_faults import Faults, Service, create_bucket, proxied

os.environ["RAY_AUTH_MODE"] = "disabled"
# Shells have their jobs in the background ignore it, and what those start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
Handocc = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Local material that is not part of the project: real photographs, recorded numbers."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the local material is not here")
    return folder


@pytest.fixture(scope="session")
def handocc() -> Handocc:
    """Runs `handocc …` in a process of its own and returns what came of it."""

    def run(*arguments: str | Path, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
            cwd=REPOSITORY,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def handocc_here(capsys: pytest.CaptureFixture[str]) -> Handocc:
    """Runs `handocc …` in this process: a process takes seconds to start, which most tests say nothing about."""
    from jobs.cli import main

    def run(*arguments: str | Path, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        command = [str(word) for word in arguments]
        status = main(command)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(command, status, said.out, said.err)

    return run


@pytest.fixture
def handocc_on_one_ray(handocc_here: Handocc) -> Iterator[Handocc]:
    """Runs `handocc …` in this process, all commands of a test on one Ray."""
    from jobs.cluster import connect

    with connect(None):
        yield handocc_here


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of twelve labelled synthetic pictures each, left and right hands."""
    from model.mano.synthetic import synthetic_hand
    from pipeline.records import UnitRecord
    from pipeline.synthesis.sample import SceneSpec
    from pipeline.synthesis.shards import MakeShard, plan_shards

    folder = tmp_path_factory.mktemp("shards")
    make = MakeShard(str(folder), 3, SceneSpec(size=160, vertices=True), synthetic_hand())
    for unit in plan_shards(str(folder), count=24, seed=3, per_shard=12):
        make(UnitRecord(unit))
    return folder


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory, shards: Path, handocc: Handocc) -> Path:
    """Two shards annotated, with vertices and meshes; the second one is cut in the middle of a sample."""
    folder = tmp_path_factory.mktemp("annotate")
    for shard in sorted(shards.glob("*.tar")):
        shutil.copy(shard, folder)
    last = sorted(folder.glob("*.tar"))[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    out = folder / "out"
    options = "--model tiny --weights random:0 --vertices --meshes tar".split()
    done = handocc("annotate", f"{folder}/*.tar", "--output", out, *options)
    assert done.returncode == 1, done.stderr
    assert "untrained" in done.stderr
    assert "the network runs on " in done.stderr
    assert f"results: file://{out}" in done.stdout
    return out


@pytest.fixture(scope="session")
def moto_server() -> Iterator[tuple[str, int]]:
    """An S3 service on loopback, for as long as the tests run."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def s3(moto_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An empty bucket behind a proxy that can be told to misbehave; the environment points there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    faults = Faults()
    with proxied(moto_server, faults) as url:
        settings = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        create_bucket(url, bucket)
        yield Service(url, f"s3://{bucket}", faults, f"http://{moto_server[0]}:{moto_server[1]}")
