"""S3, through a real service on loopback (moto) and a proxy that fails as networks and services do."""

import io
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import lease, storage
from pipeline.errors import ConfigError, StorageError
from pipeline.inputs import find_inputs
from pipeline.sources import parquet, webdataset
from pipeline.sources.source import Input
from pipeline.stores.range_file import LARGEST_FETCH, RangeFile
from tests.s3_faults import KINDS, Service

# A share of all requests for each kind; together nearly a third of them goes wrong.
MANY = {
    "internal_error": 0.05,
    "slow_down": 0.05,
    "reset": 0.05,
    "lost_answer": 0.05,
    "truncated": 0.05,
    "short": 0.05,
}


def tar_of(names: list[str], size: int) -> bytes:
    """Returns a tar of members of so many random bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(os.urandom(size)))
    return stream.getvalue()


def fill(service: Service, keys: list[str]) -> None:
    """Puts empty objects into the bucket behind the service's back, since moto takes 5 ms a request."""
    from moto.backends import get_backend

    backend = get_backend("s3")["123456789012"]["aws"]
    for key in keys:
        backend.put_object(service.bucket.removeprefix("s3://"), key, b"")


def address(service: Service) -> str:
    return f"{service.url}/{service.bucket.removeprefix('s3://')}"


def unfinished(service: Service) -> list[str]:
    """Returns the keys of the bucket's unfinished uploads."""
    with urllib.request.urlopen(f"{address(service)}?uploads") as answer:
        return re.findall(r"<Upload>.*?<Key>(.*?)</Key>", answer.read().decode(), re.DOTALL)


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
    storage.require_writable(root)


def test_a_question_mark_in_a_key_is_part_of_the_name(s3: Service) -> None:
    keys = ["a?.jpg", "a?id=3.jpg", "a%3Fid=3.jpg", "100%.jpg"]
    for key in keys:
        storage.put(storage.below(s3.bucket, key), key.encode())
    for info in storage.list_files(s3.bucket):
        assert storage.read(info.uri).decode() == storage.key_below(s3.bucket, info.uri)
    assert len(list(storage.list_files(s3.bucket))) == len(keys)


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


@pytest.mark.parametrize(
    ("status", "code", "headers", "said"),
    [
        (403, "AccessDenied", {}, "permission denied"),
        (400, "ExpiredToken", {}, "credentials have expired"),
        (403, "InvalidAccessKeyId", {}, "access key is not known"),
        (403, "SignatureDoesNotMatch", {}, "secret key does not fit"),
        (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}, "set AWS_REGION=eu-west-1"),
        (403, "RequestTimeTooSkewed", {}, "clock is wrong"),
    ],
)
def test_a_place_that_refuses_is_said_at_once_in_one_line(
    s3: Service, status: int, code: str, headers: dict[str, str], said: str
) -> None:
    s3.faults.refusal = (status, code, headers)
    for request in (
        lambda: storage.stat(f"{s3.bucket}/x.tar"),
        lambda: list(storage.list_files(f"{s3.bucket}/x")),
        lambda: storage.require_writable(f"{s3.bucket}/out"),
        lambda: find_inputs([f"{s3.bucket}/*.tar"]),
    ):
        s3.faults.requests.clear()
        with pytest.raises(ConfigError, match=said) as caught:
            request()
        assert s3.bucket in str(caught.value)
        assert "\n" not in str(caught.value)
        assert s3.faults.requests.total() <= 4


def test_a_missing_bucket_is_named(s3: Service) -> None:
    for request in (
        lambda: find_inputs(["s3://not-there/x"]),
        lambda: find_inputs(["s3://not-there/*.tar"]),
        lambda: storage.require_writable("s3://not-there/out"),
        lambda: storage.read("s3://not-there/weights"),
    ):
        with pytest.raises(ConfigError, match="s3://not-there: there is no such bucket"):
            request()


def test_missing_credentials_and_an_unknown_profile_are_said(
    s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="there are no AWS credentials; set AWS_PROFILE"):
        storage.stat(f"{s3.bucket}/x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="nobody"):
        storage.stat(f"{s3.bucket}/x")


def test_settings_come_from_where_the_aws_tools_take_them(
    s3: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    storage.put(f"{s3.bucket}/x", b"x")
    for request in (lambda: storage.read(f"{s3.bucket}/x"), lambda: list(storage.list_files(s3.bucket))):
        request()
        headers = {name.lower(): value for name, value in s3.faults.headers.items()}
        assert "LABKEY/" in headers["authorization"]
        assert "/eu-central-1/s3/" in headers["authorization"]
        assert headers["x-amz-request-payer"] == "requester"
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
    with pytest.raises(PermissionError, match=f"{s3.bucket}/x: permission denied"):
        storage.read(f"{s3.bucket}/x")
    assert "authorization" not in {name.lower() for name in s3.faults.headers}


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


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, repository: Path) -> None:
    code = (
        "import resource; from pipeline import storage\n"
        "from pipeline.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try: storage.put({str(tmp_path / 'x')!r}, bytes(5000))\n"
        "except StorageError as error: print(error)"
    )
    child = [sys.executable, "-c", code]
    said = subprocess.run(child, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert said == f"file://{tmp_path}/x: the limit on file sizes is reached, 5000 bytes cannot be written\n"
    assert list(tmp_path.iterdir()) == []
