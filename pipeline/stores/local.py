"""Files of this machine (and whatever is mounted on it)."""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote_to_bytes

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StorageError
from pipeline.stores.store import FileInfo

TEMPORARY_PREFIX = ".tmp-"
_OURS = re.compile(re.escape(TEMPORARY_PREFIX) + r"(probe-)?[0-9a-f]{32}")
PLAIN = "/~ !$&'()*+,;=:@[]{}"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the limit on file sizes is reached",
}


def to_uri(path: str) -> str:
    """Returns the canonical URI of a path."""
    return "file://" + quote(os.fsencode(os.path.abspath(path)), safe=PLAIN)


def to_path(uri: str) -> Path:
    """Returns the path of a canonical URI."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def _info(path: str, status: os.stat_result) -> FileInfo:
    return FileInfo(to_uri(path), status.st_size, str(status.st_mtime_ns))


def stat(uri: str) -> FileInfo | None:
    path = to_path(uri)
    return _info(str(path), path.stat()) if os.path.isfile(path) else None


def is_folder(uri: str) -> bool:
    return os.path.isdir(to_path(uri))


def list_files(folder: str) -> Iterator[FileInfo]:
    yield from _below(to_path(folder), frozenset())


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[FileInfo]:
    """Yields what lies below a folder; links to folders are followed, but not back to one of those `above`."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=_place)
    except FileNotFoundError:
        return
    here = (status.st_dev, status.st_ino)
    for entry in entries if here not in above else ():
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _below(Path(entry.path), above | {here})
        else:
            yield _listed(entry.path)


def _place(entry: os.DirEntry[str]) -> str:
    return entry.name + ("/" if _is_folder(entry) else "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _listed(path: str) -> FileInfo:
    """Returns what is known of a file; what cannot be read (a link to nothing, a pipe) shows when it is read."""
    try:
        return _info(path, os.stat(path))
    except OSError:
        return FileInfo(to_uri(path), 0, "")


def glob(pattern: str) -> dict[str, FileInfo | None]:
    found = sorted(LocalFileSystem().glob(str(to_path(pattern))))
    return {to_uri(path): None if os.path.isdir(path) else _listed(path) for path in found}


def read(uri: str) -> bytes:
    with open_input(uri) as stream:
        return stream.read()


def read_range(uri: str, first: int, last: int) -> bytes:
    with open_input(uri) as stream:
        stream.seek(first)
        return stream.read(last - first)


def open_input(uri: str) -> BinaryIO:
    path = to_path(uri)
    if path.exists() and not path.is_file():
        # A pipe would be waited for, and a device read, for ever.
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def put(uri: str, data: bytes) -> None:
    target = to_path(uri)
    temporary = _write_temporary(target, data)
    os.replace(temporary, target)


def put_new(uri: str, data: bytes) -> bool:
    target = to_path(uri)
    temporary = _write_temporary(target, data)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _write_temporary(target: Path, data: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.errno in _FULL:
            raise StorageError(
                f"{to_uri(str(target))}: {_FULL[error.errno]}, {len(data)} bytes cannot be written"
            ) from error
        raise
    return temporary


def delete(uri: str) -> None:
    to_path(uri).unlink(missing_ok=True)


def sweep(folder: str) -> int:
    left = [path for path in to_path(folder).rglob(f"{TEMPORARY_PREFIX}*") if _OURS.fullmatch(path.name)]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)
