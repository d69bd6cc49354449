"""Files of this machine and whatever is mounted on it; what a disk refuses in a bad hour is asked for again."""

import contextlib
import errno
import functools
import io
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote_to_bytes

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StorageError
from pipeline.stores.retries import asked, asking, may_pass
from pipeline.stores.store import FileInfo

TEMPORARY_PREFIX = ".tmp-"
_OURS = re.compile(re.escape(TEMPORARY_PREFIX) + r"(probe-)?[0-9a-f]{32}")
PLAIN = "/~ !$&'()*+,;=:@[]{}"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the limit on file sizes is reached",
}
# What mounts without hard links answer (FAT, gcsfuse, some SMB servers), and files that have too many.
_NO_LINKS = frozenset([errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])


def to_uri(path: str) -> str:
    """Returns the canonical URI of a path."""
    return "file://" + quote(os.fsencode(os.path.abspath(path)), safe=PLAIN)


def to_path(uri: str) -> Path:
    """Returns the path of a canonical URI."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def _info(path: str, status: os.stat_result) -> FileInfo:
    return FileInfo(to_uri(path), status.st_size, str(status.st_mtime_ns))


def _status(path: str | Path) -> os.stat_result | None:
    """Returns what the system knows of a path, links followed; None where that cannot be had (a link to nothing)."""
    try:
        return os.stat(path)
    except ValueError:
        return None  # no path at all: a zero byte in it
    except OSError as error:
        if may_pass(error):
            raise
        return None


def _is_directory(path: str | Path) -> bool:
    status = _status(path)
    return status is not None and S_ISDIR(status.st_mode)


@asking
def stat(uri: str) -> FileInfo | None:
    path = to_path(uri)
    status = _status(path)
    return _info(str(path), status) if status is not None and S_ISREG(status.st_mode) else None


@asking
def is_folder(uri: str) -> bool:
    return _is_directory(to_path(uri))


def list_files(folder: str) -> Iterator[FileInfo]:
    yield from _below(to_path(folder), frozenset())


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[FileInfo]:
    """Yields what lies below a folder; links to folders are followed, but not back to one of those `above`."""
    try:
        here, entries = asked(functools.partial(_entries, folder), str(folder))
    except (FileNotFoundError, NotADirectoryError):
        return  # as of a bucket, where nothing lies below a file
    for path, is_directory in entries if here not in above else ():
        if is_directory:
            yield from _below(Path(path), above | {here})
        else:
            yield asked(functools.partial(_listed, path), path)


def _entries(folder: Path) -> tuple[tuple[int, int], list[tuple[str, bool]]]:
    """Returns what a folder is known by, and the paths in it, in order, each with whether it is a folder."""
    status = folder.stat()
    with os.scandir(folder) as found:
        entries = [(entry.path, _is_folder(entry)) for entry in found if not entry.name.startswith(".")]
    return (status.st_dev, status.st_ino), sorted(entries, key=lambda entry: entry[0] + "/" * entry[1])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return _is_directory(entry.path) if entry.is_symlink() else entry.is_dir()


def _listed(path: str) -> FileInfo:
    """Returns what is known of a file; what cannot be read (a link to nothing, a pipe) shows when it is read."""
    status = _status(path)
    return FileInfo(to_uri(path), 0, "") if status is None else _info(path, status)


@asking
def glob(pattern: str) -> dict[str, FileInfo | None]:
    found = sorted(LocalFileSystem().glob(str(to_path(pattern))))
    return {to_uri(path): None if _is_directory(path) else _listed(path) for path in found}


@asking
def read(uri: str) -> bytes:
    # Opened anew for every try: a handle that has gone stale stays so.
    with open(_readable(uri), "rb") as stream:
        return stream.read()


@asking
def read_range(uri: str, first: int, last: int) -> bytes:
    with open(_readable(uri), "rb") as stream:
        stream.seek(first)
        return stream.read(last - first)


@asking
def open_input(uri: str) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_AskedFile(open(_readable(uri), "rb", buffering=0), uri)))


def _readable(uri: str) -> Path:
    path = to_path(uri)
    status = _status(path)
    if status is not None and not S_ISREG(status.st_mode):
        # A pipe would be waited for, and a device read, for ever.
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


class _AskedFile(io.RawIOBase):
    """A file that is open, and whose reads are tried again from where they began."""

    def __init__(self, file: io.FileIO, uri: str) -> None:
        super().__init__()
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        return asked(lambda: self._file.readinto(buffer), self._uri)

    def readall(self) -> bytes:
        start = self._file.tell()

        def attempt() -> bytes:
            self._file.seek(start)
            return self._file.readall()

        return asked(attempt, self._uri)

    def close(self) -> None:
        self._file.close()
        super().close()


@asking
def put(uri: str, data: bytes) -> None:
    target = to_path(uri)
    os.replace(_write_temporary(target, data), target)


@asking
def put_new(uri: str, data: bytes) -> bool:
    """Writes a file whole and then gives it its name by a hard link; without such links, creates and then fills it.

    Created so, the name is still one writer's alone, but the content is not there at once: who reads in between
    finds it empty or cut, and it stays so where the writer is killed.
    """
    target = to_path(uri)
    temporary = _write_temporary(target, data)
    try:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write_new(target, data, target)
    except FileExistsError:
        # Perhaps an earlier try wrote it and its answer was lost.
        return target.read_bytes() == data
    finally:
        temporary.unlink()
    return True


def _write_temporary(target: Path, data: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    _write_new(temporary, data, target)
    return temporary


def _write_new(path: Path, data: bytes, target: Path) -> None:
    """Writes a file that must not be there yet, down to the disk; where that fails, it is gone again."""
    try:
        with open(path, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if error.errno in _FULL:
            raise StorageError(
                f"{to_uri(str(target))}: {_FULL[error.errno]}, {len(data)} bytes cannot be written"
            ) from error
        raise


@asking
def delete(uri: str) -> None:
    to_path(uri).unlink(missing_ok=True)


@asking
def sweep(folder: str) -> int:
    top, swept = to_path(folder), 0
    for here, folders, files in os.walk(top):
        if Path(here) != top and "lease" in folders:
            folders.clear()
            continue
        for name in filter(_OURS.fullmatch, files):
            Path(here, name).unlink(missing_ok=True)
            swept += 1
    return swept
