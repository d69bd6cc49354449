"""S3 through a real service on loopback (moto), and what every kind of storage promises."""

import io
import multiprocessing
import os
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.inputs import find_inputs
from pipeline.sources import webdataset
from pipeline.sources.source import Input
from pipeline.stores.range_file import LARGEST_FETCH, RangeFile
from tests.s3_faults import Service
from tests.s3_objects import MANY, address, fill, tar_of, unfinished


@pytest.fixture(params=["file", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place of each kind of storage."""
    if request.param == "file":
        yield str(tmp_path)
    elif request.param == "s3":
        yield request.getfixturevalue("s3").bucket + "/root"
    else:
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()


def test_every_kind_of_storage_keeps_the_same_promises(root: str) -> None:
    names = ["a.bin", "empty", "sub/b.bin", "sub/c#1.bin", "sub/d %25e.bin", "sub/été.bin", "z.bin"]
    for name in names:
        storage.put(storage.below(root, name), b"" if name == "empty" else name.encode())
    storage.put(storage.join(root, ".hidden"), b"x")
    listed = list(storage.list_files(root))
    assert [storage.key_below(root, info.uri) for info in listed] == names
    for name, info in zip(names, listed, strict=True):
        content = b"" if name == "empty" else name.encode()
        assert storage.canonical(info.uri) == info.uri == storage.below(root, name)
        assert storage.read(info.uri) == content
        known = storage.stat(info.uri)
        # fsspec's memory tells the time in two ways.
        assert known == info or root.startswith("memory")
        assert info.size == len(content)
        assert storage.read_range(info.uri, 2, 5) == content[2:5]
        assert storage.read_range(info.uri, 1, 1000) == content[1:]
        assert storage.read_range(info.uri, 1000, 2000) == b""
        with storage.open_input(info.uri) as stream:
            assert stream.read(2) == content[:2]
            assert stream.seek(0, os.SEEK_END) == len(content)
            assert stream.seek(1) == 1
            assert stream.read() == content[1:]
    assert list(storage.glob(storage.join(root, "*.bin"))) == [listed[0].uri, listed[-1].uri]
    assert list(storage.glob(storage.join(root, "s?b/[bc]*.bin"))) == [info.uri for info in listed[2:4]]
    assert list(storage.glob(storage.join(root, "**", "*.bin"))) == [
        info.uri for info in listed if info.uri.endswith(".bin")
    ]
    assert storage.glob(storage.join(root, "su*")) == {storage.canonical(storage.join(root, "sub")): None}
    assert storage.is_folder(storage.join(root, "sub"))
    assert not storage.is_folder(listed[0].uri)
    assert storage.stat(storage.join(root, "sub")) is None
    assert storage.put_new(storage.join(root, "new"), b"mine")
    assert not storage.put_new(storage.join(root, "new"), b"theirs")
    assert storage.read(storage.join(root, "new")) == b"mine"
    storage.delete(listed[0].uri)
    storage.delete(listed[0].uri)
    assert storage.stat(listed[0].uri) is None
    with pytest.raises(FileNotFoundError):
        storage.read(listed[0].uri)
    with pytest.raises(FileNotFoundError), storage.open_input(listed[0].uri):
        pass
    assert list(storage.list_files(storage.join(root, "nothing"))) == []
    # fsspec's memory takes a file for a folder of itself.
    assert list(storage.list_files(listed[-1].uri)) == [] or root.startswith("memory")
    storage.require_writable(root)


def test_a_question_mark_in_a_key_is_part_of_the_name(s3: Service) -> None:
    keys = ["a?.jpg", "a?id=3.jpg", "a%3Fid=3.jpg", "100%.jpg"]
    for key in keys:
        storage.put(storage.below(s3.bucket, key), key.encode())
    for info in storage.list_files(s3.bucket):
        assert storage.read(info.uri).decode() == storage.key_below(s3.bucket, info.uri)
    assert len(list(storage.list_files(s3.bucket))) == len(keys)


def test_a_long_listing_comes_page_by_page_and_sees_what_is_new(s3: Service) -> None:
    fill(s3, [f"list/{number:05d}" for number in range(2500)])
    s3.faults.requests.clear()
    listing = storage.list_files(f"{s3.bucket}/list")
    assert storage.name_of(next(listing).uri) == "00000"
    assert s3.faults.requests == {"ListObjects": 1}
    s3.faults.rates = MANY
    assert sum(1 for _ in listing) == 2499
    s3.faults.rates = {}
    storage.put(f"{s3.bucket}/list/99999", b"")
    assert [storage.name_of(info.uri) for info in storage.list_files(f"{s3.bucket}/list")][-1] == "99999"


def test_inputs_that_a_listing_has_named_are_not_asked_for_one_by_one(s3: Service) -> None:
    fill(s3, [f"shards/{number:05d}.tar" for number in range(1500)])
    s3.faults.requests.clear()
    inputs, _ = find_inputs([f"{s3.bucket}/shards/*.tar"])
    assert len(inputs) == 1500
    assert s3.faults.requests.total() <= 5


def test_a_large_object_goes_up_and_down_in_parts_and_is_there_at_the_end_only(s3: Service) -> None:
    content = random.Random(1).randbytes(70 << 20)
    s3.faults.rates = {"internal_error": 0.1, "lost_answer": 0.15, "truncated": 0.1, "short": 0.1}
    storage.put(f"{s3.bucket}/big", content)
    assert storage.read(f"{s3.bucket}/big") == content
    assert storage.read_range(f"{s3.bucket}/big", 5, 60 << 20) == content[5 : 60 << 20]
    s3.faults.rates = {}
    assert unfinished(s3) == []
    # An upload that its writer did not live to complete: the object is not there, and a sweep aborts it.
    for key in ("out/part", "outside/part"):
        urllib.request.urlopen(urllib.request.Request(f"{address(s3)}/{key}?uploads", method="POST")).close()
    assert storage.stat(f"{s3.bucket}/out/part") is None
    assert storage.sweep(f"{s3.bucket}/out") == 1
    assert unfinished(s3) == ["outside/part"]
    # In a whole bucket they may be anyone's.
    assert storage.sweep(s3.bucket) == 0


def test_a_header_pass_over_a_tar_is_not_one_request_a_sample(s3: Service) -> None:
    data = tar_of([f"{number:04d}.jpg" for number in range(400)], 100_000)
    storage.put(f"{s3.bucket}/s.tar", data)
    info = storage.stat(f"{s3.bucket}/s.tar")
    s3.faults.requests.clear()
    assert len(webdataset.probe(Input(info.uri, "webdataset", (info,))).keys) == 400
    assert s3.faults.requests["GetObject"] <= len(data) / LARGEST_FETCH + 8
    assert s3.faults.requests.total() == s3.faults.requests["GetObject"]


def test_the_foot_of_a_parquet_file_is_read_without_the_rest(s3: Service) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": [os.urandom(1 << 20) for _ in range(16)]}), stream, row_group_size=4)
    storage.put(f"{s3.bucket}/t.parquet", stream.getvalue())
    s3.faults.requests.clear()
    with storage.open_input(f"{s3.bucket}/t.parquet") as opened:
        assert pq.read_metadata(opened).num_rows == 16
    assert s3.faults.requests["GetObject"] == 2


def test_an_object_that_is_replaced_under_a_reader_is_not_mixed(s3: Service) -> None:
    storage.put(f"{s3.bucket}/x", b"a" * 1_000_000)
    with storage.open_input(f"{s3.bucket}/x") as stream:
        assert stream.read(10) == b"a" * 10
        storage.put(f"{s3.bucket}/x", b"b" * 1_000_000)
        stream.seek(900_000)
        with pytest.raises(OSError, match="changed while it was read"):
            stream.read(10)


def test_a_range_file_reads_as_a_file_does() -> None:
    rng = random.Random(3)
    content = rng.randbytes(3_000_000)
    fetched: list[tuple[int, int]] = []

    def fetch(first: int, last: int) -> bytes:
        fetched.append((first, last))
        assert 0 <= first < last <= len(content)
        return content[first:last]

    ours, real = RangeFile(fetch, len(content), content[:1000]), io.BytesIO(content)
    for _ in range(500):
        offset, whence = rng.choice(
            [(rng.randrange(3_100_000), 0), (rng.randrange(50_000), 1), (-rng.randrange(99), 2)]
        )
        count = rng.choice([1, 512, 40_000, 700_000, -1 if rng.random() < 0.02 else 7])
        assert ours.seek(offset, whence) == real.seek(offset, whence)
        assert ours.read(count) == real.read(count)
        assert ours.tell() == real.tell()


def test_a_forked_child_and_a_spawned_one_read_for_themselves(s3: Service) -> None:
    storage.put(f"{s3.bucket}/x", b"content")
    assert storage.read(f"{s3.bucket}/x") == b"content"
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply_async(storage.read, (f"{s3.bucket}/x",)).get(timeout=60) == b"content"
    assert storage.read(f"{s3.bucket}/x") == b"content"
