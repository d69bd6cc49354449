import errno
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import ConfigError, StorageError
from pipeline.records import Unit
from pipeline.sources import SOURCES
from pipeline.stores import local


def test_canonical_uris_are_absolute_and_carry_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.canonical("a/../b.tar") == f"file://{tmp_path}/b.tar"
    assert storage.canonical("S3://key:secret@bucket/a/b?x=y") == "s3://bucket/a/b"
    assert storage.canonical(storage.canonical("a b%.tar")) == storage.canonical("a b%.tar")


def test_an_object_is_replaced_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "x")
    storage.put(uri, b"one")
    storage.put(uri, b"two")
    assert storage.read(uri) == b"two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]


def test_a_create_only_write_happens_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "x")
    assert storage.put_new(uri, b"first")
    assert not storage.put_new(uri, b"second")
    assert storage.read(uri) == b"first"


def test_a_create_only_write_happens_once_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    test_a_create_only_write_happens_once(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("source", "name"), [("images", ""), ("webdataset", "a.tar")])
def test_a_disk_that_fails_under_a_reader_is_no_fault_of_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    (tmp_path / (name or "a.jpg")).write_bytes(b"content")
    place = storage.canonical(str(tmp_path / name))
    info = storage.stat(place)
    version = f"{info.size}-{info.version}" if info else ""
    unit = Unit("u", source, place, 0, 1, 1, version, offset=0, length=512)

    def stale(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(local, "open", stale, raising=False)
    with pytest.raises(StorageError, match=r"/a\..*: storage does not answer.*Stale file handle.*2 tries"):
        list(SOURCES[source].read(unit, ["a.jpg"]))
    with pytest.raises(StorageError), storage.open_input(str(tmp_path / (name or "a.jpg"))) as file:
        file.read(1)


def test_a_store_of_another_kind_is_asked_again_and_then_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [0]

    class Unsteady(MemoryFileSystem):
        protocol = "unsteady"

        def cat_file(self, *args: Any, **named: Any) -> bytes:
            failures[0] -= 1
            if failures[0] >= 0:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return bytes(super().cat_file(*args, **named))

    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage.put("unsteady://a/x", b"content")
    failures[0] = 1
    assert storage.read("unsteady://a/x") == b"content"
    failures[0] = 2
    with pytest.raises(StorageError, match="Stale file handle"):
        storage.read("unsteady://a/x")


def test_what_a_killed_writer_left_is_neither_listed_nor_kept(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / f"{storage.TEMPORARY_PREFIX}{'0a' * 16}").write_bytes(b"half")
    (tmp_path / "sub" / ".tmp-of-somebody-else").write_bytes(b"mine")
    (tmp_path / "sub" / "whole").write_bytes(b"whole")
    assert [storage.name_of(file.uri) for file in storage.list_files(str(tmp_path))] == ["whole"]
    other = tmp_path / "sub" / "another output"
    (other / "lease").mkdir(parents=True)
    (other / f"{storage.TEMPORARY_PREFIX}{'0b' * 16}").write_bytes(b"being written")
    assert storage.sweep(str(tmp_path)) == 1
    assert len(list(other.iterdir())) == 2
    shutil.rmtree(other)
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == [".tmp-of-somebody-else", "whole"]


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot write there"):
        storage.require_writable(str(tmp_path / "file" / "below"))


def test_an_unknown_kind_of_location_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="cannot open nosuch://"):
        storage.stat("nosuch://bucket/x")


def test_no_secret_of_a_uri_is_written_down() -> None:
    for text in (
        "@https://me:pw@host/l.txt?sig=1",
        "s3://key:pw@bucket/{a,b}.tar",
        "https://host/x?token=pw",
    ):
        assert "pw" not in storage.redacted(text)
        assert "sig" not in storage.redacted(text)
    for plain in ("photos/what?.jpg", "me@home.jpg", "random:0", "s3://bucket/a@b.tar"):
        assert storage.redacted(plain) == plain
