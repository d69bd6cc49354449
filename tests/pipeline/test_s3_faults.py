"""S3 that fails as networks and services do: what is read and written is whole, or the failure is told as one."""

import io
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import lease, storage
from pipeline.errors import ConfigError, StorageError
from pipeline.sources import parquet, webdataset
from pipeline.sources.source import Input
from tests.s3_faults import KINDS, Service
from tests.s3_objects import MANY, tar_of


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stall"])
def test_whatever_fails_for_a_moment_what_is_read_and_written_is_whole(s3: Service, kind: str) -> None:
    s3.faults.rates = {kind: 0.3}
    content = random.Random(kind).randbytes(50_000)
    for number in range(8):
        uri = f"{s3.bucket}/{number}"
        storage.put(uri, content)
        assert storage.read(uri) == content
        assert storage.read_range(uri, 7, 40_000) == content[7:40_000]
        assert storage.stat(uri).size == len(content)
    assert len(list(storage.list_files(s3.bucket))) == 8
    assert s3.faults.injected[kind] >= 3


def test_a_connection_that_stalls_is_given_up_and_made_again(
    s3: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.5}})
    s3.faults.rates, s3.faults.stall_s = {"stall": 0.3}, 5.0
    for number in range(6):
        storage.put(f"{s3.bucket}/{number}", b"content")
        assert storage.read(f"{s3.bucket}/{number}") == b"content"
    assert s3.faults.injected["stall"] >= 2


def test_a_storage_that_stays_down_is_one_line_after_so_many_tries(
    s3: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    s3.faults.rates = {"slow_down": 1.0}
    with pytest.raises(StorageError) as caught:
        storage.read(f"{s3.bucket}/x")
    assert str(caught.value).startswith(f"{s3.bucket}/x: storage does not answer as it should: SlowDown")
    assert str(caught.value).endswith("(3 tries)")
    assert s3.faults.requests["GetObject"] == 3


def test_no_source_takes_a_storage_that_gives_out_for_a_bad_input(
    s3: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [os.urandom(200_000) for _ in range(3)]}), table)
    storage.put(f"{s3.bucket}/t.parquet", table.getvalue())
    storage.put(f"{s3.bucket}/t.tar", tar_of(["a.jpg", "b.jpg"], 200_000))
    whole_table = lambda stream: pq.ParquetFile(stream).read()  # noqa: E731
    whole_tar = lambda stream: tarfile.open(fileobj=stream).getmembers()  # noqa: E731, SIM115
    for source, name, load in ((parquet, "t.parquet", whole_table), (webdataset, "t.tar", whole_tar)):
        info = storage.stat(f"{s3.bucket}/{name}")
        assert len(source.probe(Input(info.uri, name, (info,))).keys) >= 2
        with storage.open_input(info.uri) as stream:
            s3.faults.rates = {"internal_error": 1.0}
            with pytest.raises(StorageError):
                load(stream)
        with pytest.raises(StorageError):
            source.probe(Input(info.uri, name, (info,)))
        s3.faults.rates = {}


def test_a_create_only_write_succeeds_for_one_though_answers_are_lost(s3: Service) -> None:
    s3.faults.rates = {"lost_answer": 0.4}

    def create(number: int) -> bool:
        return storage.put_new(f"{s3.bucket}/lease/{number // 4}", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(48)))
    for start in range(0, 48, 4):
        winners = [number for number in range(start, start + 4) if won[number]]
        assert winners == [int(storage.read(f"{s3.bucket}/lease/{start // 4}"))]
    assert s3.faults.injected["lost_answer"] > 10


def test_the_lease_of_an_output_holds_there(s3: Service) -> None:
    s3.faults.rates = MANY
    output = f"{s3.bucket}/out"
    with lease.hold(output), pytest.raises(ConfigError, match="is writing there"), lease.hold(output):
        pass
    with lease.hold(output):
        pass
