"""Where bytes come from and go to: all storage, local and remote, by URI or local path.

Whatever is put is there whole or not at all; whatever is read is whole or an error. A place that refuses or
does not answer is a StorageError, raised after the retries; one object that is missing or cannot be had is
a FileNotFoundError or another OSError. The kinds of storage are the files of `pipeline/stores/`.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

from pyarrow.fs import FileSystem

from pipeline import names
from pipeline.errors import ConfigError, StorageError
from pipeline.stores import arrow, local, remote, s3
from pipeline.stores.local import TEMPORARY_PREFIX
from pipeline.stores.s3_client import escaped, unescaped
from pipeline.stores.store import FileInfo, Store

__all__ = ["TEMPORARY_PREFIX", "FileInfo"]

# By scheme; every other one goes to `remote`.
STORES: dict[str, Store] = {"file": local, "s3": s3, "s3a": s3}
DELETES_AT_ONCE = 16
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_SECRETS = re.compile(r"(://)[^/@\s]*@|\?[A-Za-z][\w.-]*=\S*")
_QUERY = re.compile(r"\?[A-Za-z][\w.-]*=.*", re.DOTALL)


def _store(uri: str) -> Store:
    return STORES.get(_scheme(uri), remote)


def _scheme(uri: str) -> str:
    return uri.split("://", 1)[0].lower() if _SCHEME.match(uri) else "file"


def canonical(uri: str) -> str:
    """Returns the URI with an explicit scheme and an absolute path, without credentials and query.

    In a key on S3 a `?` counts as part of the name (or as a wildcard) unless `name=` follows it.
    """
    scheme = _scheme(uri)
    if scheme == "file":
        if _SCHEME.match(uri):
            return local.to_uri(unquote(uri.split("://", 1)[1], errors="surrogateescape"))
        return local.to_uri(os.path.expanduser(uri))
    if scheme in ("http", "https"):
        uri = f"{scheme}://{urlsplit(uri).netloc}{urlsplit(uri).path}"
    authority, slash, path = _QUERY.sub("", uri.split("://", 1)[1]).partition("/")
    return f"{scheme}://{authority.rsplit('@', 1)[-1]}{slash}{path}".rstrip("/")


def resolved(uri: str) -> str:
    """Returns the canonical URI with symbolic links followed, where a store has such."""
    uri = canonical(uri)
    return local.to_uri(os.path.realpath(local.to_path(uri))) if _scheme(uri) == "file" else uri


def redacted(text: str) -> str:
    """Returns text whose URIs, also behind `@` or in a pattern, have lost user, password and query."""
    return _SECRETS.sub(r"\1", text)


def join(folder: str, *names: str) -> str:
    """Returns the URI of something below a folder."""
    return "/".join([folder.rstrip("/"), *names])


def below(folder: str, key: str) -> str:
    """Returns the URI of the file with this path below a folder; undoes `key_below`."""
    scheme = _scheme(folder)
    if scheme == "file":
        key = quote(os.fsencode(names.from_text(key)), safe=local.PLAIN)
    elif STORES.get(scheme) is s3:
        key = escaped(key)
    return join(canonical(folder), key)


def key_below(folder: str, uri: str) -> str:
    """Returns the plain path of a file below a folder."""
    path, scheme = canonical(uri).removeprefix(canonical(folder) + "/"), _scheme(folder)
    if scheme == "file":
        return names.to_text(unquote(path, errors="surrogateescape"))
    return unescaped(path) if STORES.get(scheme) is s3 else path


def name_of(uri: str) -> str:
    """Returns the last part of the URI's path."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def stat(uri: str) -> FileInfo | None:
    """Returns what is known of the object at a URI, or None if there is none."""
    return _store(uri).stat(canonical(uri))


def is_folder(uri: str) -> bool:
    """Says whether a URI is a folder (on an object store: a prefix that holds something)."""
    return _store(uri).is_folder(canonical(uri))


def list_files(folder: str) -> Iterator[FileInfo]:
    """Yields every file below a folder, at any depth, sorted by path; nothing for a missing folder.

    Hidden files and folders (a leading dot) are passed over, and with them what a killed `put` left.
    Listings are never cached, and long ones come page by page.
    """
    return _store(folder).list_files(canonical(folder))


def glob(pattern: str) -> dict[str, FileInfo | None]:
    """Returns what matches a pattern with `*`, `?`, `[…]` or `**`: URIs, sorted, None standing for a folder."""
    return _store(pattern).glob(canonical(pattern))


def read(uri: str) -> bytes:
    """Returns the whole object.

    Raises:
        FileNotFoundError: there is none.
    """
    return _store(uri).read(canonical(uri))


def read_range(uri: str, first: int, last: int) -> bytes:
    """Returns bytes [first, last) of the object, fewer where it ends earlier."""
    return _store(uri).read_range(canonical(uri), first, last)


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """Opens an object for seeking reads, which fetch only the ranges they touch, all of one version."""
    with _store(uri).open_input(canonical(uri)) as stream:
        yield stream


def put(uri: str, data: bytes) -> None:
    """Writes an object atomically, replacing what is there: readers see the old bytes or the new ones.

    Raises:
        StorageError: it cannot be written, whatever the reason.
    """
    try:
        _store(uri).put(canonical(uri), data)
    except OSError as error:
        raise StorageError(f"{uri}: cannot be written: {error}") from error


def put_new(uri: str, data: bytes) -> bool:
    """Writes an object atomically unless one is there; says whether it did.

    The content must be unlike anyone else's: on S3 the answer to a write can be lost, and equal content there
    then counts as written by this call.
    """
    return _store(uri).put_new(canonical(uri), data)


def delete(uri: str) -> None:
    """Removes an object if it is there."""
    _store(uri).delete(canonical(uri))


def delete_all(uris: Iterable[str]) -> None:
    """Removes objects, many at a time and in no order."""
    with ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
        for _ in pool.map(delete, uris):
            pass


def sweep(folder: str) -> int:
    """Removes what killed writers left below a folder (temporary files, unfinished uploads); returns how much.

    What lies in an output of its own below it (a folder with a lease) is left to that one's driver on file systems,
    and uploads to all of a bucket are left alone: they may be anyone's.
    Only the holder of the output's lease may call it: a temporary file of a live writer would go as well.
    """
    return _store(folder).sweep(canonical(folder))


def arrow_filesystem(uri: str) -> tuple[FileSystem, str]:
    """Returns a file system of Arrow's, for libraries that write through one, and the path in it.

    Unlike `put` it publishes what it writes piece by piece, and retries as the library behind it does.
    """
    return arrow.filesystem(canonical(uri))


def require_writable(folder: str) -> None:
    """Writes and removes a probe object, so that a job finds out now.

    Raises:
        ConfigError: the folder cannot be written.
    """
    probe = join(folder, f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}")
    try:
        put(probe, b"")
        delete(probe)
    except (StorageError, OSError) as error:
        raise ConfigError(f"{folder}: cannot write there ({error}); choose another --output") from error
