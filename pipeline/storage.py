"""Where bytes come from and go to: the only module that knows fsspec.

Every argument is a URI or a local path. Whatever is put is there whole or not at all.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import ConfigError

TEMPORARY_PREFIX = ".tmp-"
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_PLAIN = "/~ !$&'()*+,;=:@[]{}"


@dataclass(frozen=True)
class FileInfo:
    """One object: its canonical URI, its size in bytes, and a version that changes when its content does."""

    uri: str
    size: int
    version: str


def canonical(uri: str) -> str:
    """Returns the URI with an explicit scheme and an absolute path, without credentials and query."""
    if not _SCHEME.match(uri):
        return "file://" + quote(os.path.abspath(os.path.expanduser(uri)), safe=_PLAIN)
    scheme, rest = uri.split("://", 1)
    if scheme == "file":
        return "file://" + quote(os.path.abspath(unquote(rest)), safe=_PLAIN)
    parts = urlsplit(uri)
    host = parts.netloc.rsplit("@", 1)[-1]
    return f"{scheme.lower()}://{host}{parts.path}".rstrip("/")


def redacted(text: str) -> str:
    """Returns a URI without user, password and query; any other text as it is."""
    return canonical(text) if _SCHEME.match(text) and not text.startswith("file:") else text


def _is_local(uri: str) -> bool:
    return canonical(uri).startswith("file://")


def join(folder: str, *names: str) -> str:
    """Returns the URI of something below a folder."""
    return "/".join([folder.rstrip("/"), *names])


def below(folder: str, key: str) -> str:
    """Returns the URI of the file with this path below a folder; undoes `key_below`."""
    return join(canonical(folder), quote(key, safe=_PLAIN) if _is_local(folder) else key)


def key_below(folder: str, uri: str) -> str:
    """Returns the plain path of a file below a folder."""
    path = canonical(uri).removeprefix(canonical(folder) + "/")
    return unquote(path) if _is_local(folder) else path


def name_of(uri: str) -> str:
    """Returns the last part of the URI's path."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _open(uri: str) -> tuple[Any, str]:
    """Returns the file system of a URI and the path inside it."""
    uri = canonical(uri)
    if uri.startswith("file://"):
        return LocalFileSystem(), unquote(uri.removeprefix("file://"))
    scheme = uri.split("://", 1)[0]
    try:
        # Listings are never cached: a file that another machine has just written must be seen.
        options = {"use_listings_cache": False, "skip_instance_cache": False}
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{uri}: cannot open {scheme}:// locations ({error})") from error
    return filesystem, path


def _uri(like: str, path: str) -> str:
    scheme = canonical(like).split("://", 1)[0]
    if scheme == "file":
        return canonical(path)
    return f"{scheme}://{path.lstrip('/')}"


def _info(like: str, entry: dict[str, Any]) -> FileInfo:
    version = entry.get("ETag") or entry.get("etag") or entry.get("mtime") or entry.get("created") or ""
    return FileInfo(_uri(like, entry["name"]), int(entry["size"] or 0), str(version).strip('"'))


def stat(uri: str) -> FileInfo | None:
    """Returns what is known of the object at a URI, or None if there is none."""
    filesystem, path = _open(uri)
    try:
        entry = filesystem.info(path)
    except FileNotFoundError:
        return None
    return _info(uri, entry) if entry["type"] == "file" else None


def is_folder(uri: str) -> bool:
    """Says whether a URI is a folder (on an object store: a prefix that holds something)."""
    filesystem, path = _open(uri)
    return bool(filesystem.isdir(path))


def list_files(folder: str) -> Iterator[FileInfo]:
    """Yields every file below a folder, at any depth, sorted by path; nothing for a missing folder.

    Hidden files and folders (a leading dot) are passed over, and with them what a killed `put` left.
    """
    filesystem, path = _open(folder)
    if isinstance(filesystem, LocalFileSystem):
        yield from _list_local(Path(path))
        return
    found = filesystem.find(path, detail=True)
    for name in sorted(found):
        relative = name.removeprefix(path).lstrip("/")
        if not any(part.startswith(".") for part in relative.split("/")):
            yield _info(folder, found[name])


def _list_local(folder: Path) -> Iterator[FileInfo]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name + ("/" if entry.is_dir() else ""))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _list_local(Path(entry.path))
        elif entry.is_file():
            status = entry.stat()
            yield FileInfo(canonical(entry.path), status.st_size, str(status.st_mtime_ns))


def glob(pattern: str) -> list[str]:
    """Returns the URIs that match a pattern with `*`, `?`, `[…]` or `**`, sorted."""
    filesystem, path = _open(pattern)
    return sorted(_uri(pattern, name) for name in filesystem.glob(path))


def read(uri: str) -> bytes:
    """Returns the whole object.

    Raises:
        FileNotFoundError: there is none.
    """
    filesystem, path = _open(uri)
    return cast(bytes, filesystem.cat_file(path))


def read_range(uri: str, first: int, last: int) -> bytes:
    """Returns bytes [first, last) of the object, fewer where it ends earlier."""
    filesystem, path = _open(uri)
    return cast(bytes, filesystem.cat_file(path, start=first, end=last))


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """Opens an object for seeking reads, which fetch only the ranges they touch."""
    filesystem, path = _open(uri)
    with filesystem.open(path, "rb") as stream:
        yield stream


def put(uri: str, data: bytes) -> None:
    """Writes an object atomically, replacing what is there: readers see the old bytes or the new ones."""
    filesystem, path = _open(uri)
    if isinstance(filesystem, LocalFileSystem):
        temporary = _write_temporary(Path(path), data)
        os.replace(temporary, path)
    else:
        filesystem.pipe_file(path, data)


def put_new(uri: str, data: bytes) -> bool:
    """Writes an object atomically unless one is there; says whether it did."""
    filesystem, path = _open(uri)
    try:
        if isinstance(filesystem, LocalFileSystem):
            temporary = _write_temporary(Path(path), data)
            try:
                os.link(temporary, path)
            finally:
                temporary.unlink()
        else:
            filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def _write_temporary(target: Path, data: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary


def delete(uri: str) -> None:
    """Removes an object if it is there."""
    filesystem, path = _open(uri)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def sweep(folder: str) -> int:
    """Removes what killed writers left below a folder; returns how many files that were.

    Only the holder of the output's lease may call it: a temporary file of a live writer would go as well.
    """
    filesystem, path = _open(folder)
    if not isinstance(filesystem, LocalFileSystem):
        return 0
    left = list(Path(path).rglob(f"{TEMPORARY_PREFIX}*")) if Path(path).is_dir() else []
    for file in left:
        file.unlink(missing_ok=True)
    return len(left)


def require_writable(folder: str) -> None:
    """Writes and removes a probe object, so that a job finds out now.

    Raises:
        ConfigError: the folder cannot be written.
    """
    probe = join(folder, f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}")
    try:
        put(probe, b"")
        delete(probe)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error}); choose another --output") from error
