"""Whatever else fsspec can reach (gs://, az://, memory:// …), tried again beyond what its own library does."""

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import fsspec

from pipeline.errors import ConfigError, StorageError
from pipeline.stores.range_file import RangeFile
from pipeline.stores.retries import Transient, asked, asking
from pipeline.stores.store import FileInfo


def _open(uri: str) -> tuple[Any, str]:
    """Returns the file system of a URI and the path inside it."""
    try:
        # Listings are never cached: a file that another machine has just written must be seen.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        scheme = uri.split("://", 1)[0]
        raise ConfigError(f"{uri}: cannot open {scheme}:// locations ({error})") from error
    return filesystem, path


def _uri(like: str, path: str) -> str:
    return f"{like.split('://', 1)[0]}://{path.lstrip('/')}"


def _info(like: str, entry: dict[str, Any]) -> FileInfo:
    version = entry.get("ETag") or entry.get("etag") or entry.get("mtime") or entry.get("created") or ""
    return FileInfo(_uri(like, entry["name"]), int(entry["size"] or 0), str(version).strip('"'))


@asking
def stat(uri: str) -> FileInfo | None:
    filesystem, path = _open(uri)
    try:
        entry = filesystem.info(path)
    except FileNotFoundError:
        return None
    return _info(uri, entry) if entry["type"] == "file" else None


@asking
def is_folder(uri: str) -> bool:
    filesystem, path = _open(uri)
    return bool(filesystem.isdir(path))


def list_files(folder: str) -> Iterator[FileInfo]:
    filesystem, path = _open(folder)
    found = asked(lambda: filesystem.find(path, detail=True), folder)
    for name in sorted(found):
        relative = name.removeprefix(path).lstrip("/")
        if not any(part.startswith(".") for part in relative.split("/")):
            yield _info(folder, found[name])


@asking
def glob(pattern: str) -> dict[str, FileInfo | None]:
    filesystem, path = _open(pattern)
    found = filesystem.glob(path, detail=True)
    return {
        _uri(pattern, name): _info(pattern, found[name]) if found[name]["type"] == "file" else None
        for name in sorted(found)
    }


@asking
def read(uri: str) -> bytes:
    filesystem, path = _open(uri)
    return _fetch(uri, 0, int(filesystem.info(path)["size"]))


@asking
def read_range(uri: str, first: int, last: int) -> bytes:
    filesystem, path = _open(uri)
    return _fetch(uri, first, min(last, int(filesystem.info(path)["size"])))


def _fetch(uri: str, first: int, last: int) -> bytes:
    """Fetches bytes [first, last), all of which are there."""
    filesystem, path = _open(uri)

    def attempt() -> bytes:
        data = cast(bytes, filesystem.cat_file(path, start=first, end=last))
        if len(data) != last - first:
            raise Transient(f"{len(data)} bytes came instead of {last - first}")
        return data

    return asked(attempt, uri) if first < last else b""


@asking
def open_input(uri: str) -> BinaryIO:
    filesystem, path = _open(uri)
    file = RangeFile(lambda first, last: _fetch(uri, first, last), int(filesystem.info(path)["size"]))
    return cast(BinaryIO, file)


@asking
def put(uri: str, data: bytes) -> None:
    filesystem, path = _open(uri)
    filesystem.pipe_file(path, data)


@asking
def put_new(uri: str, data: bytes) -> bool:
    filesystem, path = _open(uri)
    try:
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        # Perhaps an earlier try wrote it and its answer was lost.
        return read(uri) == data
    except NotImplementedError as error:
        raise StorageError(
            f"{uri}: this storage cannot write without replacing, which --output needs"
        ) from error
    return True


@asking
def delete(uri: str) -> None:
    filesystem, path = _open(uri)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def sweep(folder: str) -> int:  # noqa: ARG001 (nothing half-written is ever visible there)
    return 0
