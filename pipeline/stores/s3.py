"""Objects on S3 or a service like it: what is read is checked against what was asked, what is written is whole."""

import contextlib
import fnmatch
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from fsspec.utils import glob_translate

from pipeline.errors import StorageError
from pipeline.stores.local import TEMPORARY_PREFIX
from pipeline.stores.range_file import SMALLEST_FETCH, RangeFile
from pipeline.stores.retries import Transient, retried
from pipeline.stores.s3_client import call, demand, escaped, place, request
from pipeline.stores.store import FileInfo

PIECE_BYTES = 32 << 20
PIECES_AT_ONCE = 4
UPLOADS_AT_MOST = 3

_MAGIC = re.compile(r"[*?\[]")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class _Piece:
    """Bytes of an object, the size of the whole, and its version."""

    data: bytes
    size: int
    version: str


def _fetch(uri: str, first: int, last: int, version: str = "") -> _Piece:
    """Fetches bytes [first, last), fewer where the object ends earlier, and of that version if one is given.

    Raises:
        EOFError: the object has no byte `first`.
    """
    bucket, key = place(uri)
    condition = {"IfMatch": version} if version else {}

    def attempt() -> _Piece:
        span = f"bytes={first}-{last - 1}"
        answer = call("get_object", uri, Bucket=bucket, Key=key, Range=span, **condition)
        data, stated = answer["Data"], _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if stated is None:
            raise Transient("a range was asked for, and the answer does not say which one it is")
        size = int(stated[3])
        if int(stated[1]) != first or len(data) != min(last, size) - first:
            raise Transient(f"{len(data)} bytes came instead of {min(last, size) - first}")
        return _Piece(data, size, answer.get("ETag", ""))

    try:
        return retried(attempt, uri)
    except FileExistsError as error:
        raise OSError(f"{uri}: changed while it was read") from error


def _read(uri: str, first: int, last: int | None) -> bytes:
    """Fetches a span, in pieces if it is long, all of one version."""
    try:
        head = _fetch(uri, first, min(first + PIECE_BYTES, last or first + PIECE_BYTES))
    except EOFError:
        return b""
    stop = head.size if last is None else min(last, head.size)
    starts = range(first + PIECE_BYTES, stop, PIECE_BYTES)
    if not starts:
        return head.data
    with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
        rest = pool.map(lambda at: _fetch(uri, at, min(at + PIECE_BYTES, stop), head.version).data, starts)
        return b"".join([head.data, *rest])


def read(uri: str) -> bytes:
    return _read(uri, 0, None)


def read_range(uri: str, first: int, last: int) -> bytes:
    return _read(uri, first, last) if first < last else b""


def open_input(uri: str) -> BinaryIO:
    try:
        head = _fetch(uri, 0, SMALLEST_FETCH)
    except EOFError:
        head = _Piece(b"", 0, "")
    file = RangeFile(lambda first, last: _fetch(uri, first, last, head.version).data, head.size, head.data)
    return cast(BinaryIO, file)


def stat(uri: str) -> FileInfo | None:
    bucket, key = place(uri)
    if not key:
        return None
    try:
        found = request("head_object", uri, Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    except OSError as error:
        # The answer to a HEAD has no body; a listing that fails as well says what is wrong.
        _first_below(uri, bucket, key)
        raise StorageError(str(error)) from error
    return FileInfo(uri, int(found["ContentLength"]), str(found.get("ETag", "")).strip('"'))


def is_folder(uri: str) -> bool:
    bucket, key = place(uri)
    page = _first_below(uri, bucket, f"{key}/" if key else "")
    return not key or bool(page.get("Contents"))


def _first_below(uri: str, bucket: str, prefix: str) -> dict[str, Any]:
    try:
        return request("list_objects_v2", uri, Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except OSError as error:
        raise StorageError(str(error)) from error


def _pages(uri: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """Yields the pages of a listing, at most 1000 objects each, as they come."""
    bucket, _ = place(uri)
    more: dict[str, str] = {}
    while True:

        def attempt(more: dict[str, str] = more) -> dict[str, Any]:
            page = call(
                "list_objects_v2",
                uri,
                Bucket=bucket,
                Prefix=prefix,
                Delimiter=delimiter,
                MaxKeys=1000,
                **more,
            )
            if "IsTruncated" not in page:
                raise Transient("a page of the listing is not whole")
            return page

        try:
            page = retried(attempt, uri)
        except OSError as error:
            # A listing is about the place, and no single object.
            raise StorageError(str(error)) from error
        yield page
        if not page["IsTruncated"]:
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _infos(uri: str, page: dict[str, Any]) -> Iterator[FileInfo]:
    """Yields the objects of a page; a key that ends in a slash only marks a folder."""
    root = "/".join(uri.split("/")[:3])
    for entry in page.get("Contents", ()):
        if not entry["Key"].endswith("/"):
            version = str(entry.get("ETag", "")).strip('"')
            yield FileInfo(f"{root}/{escaped(entry['Key'])}", int(entry["Size"]), version)


def list_files(folder: str) -> Iterator[FileInfo]:
    _, key = place(folder)
    prefix = f"{key}/" if key else ""
    start = len(folder.rstrip("/")) + 1
    for page in _pages(folder, prefix):
        for info in _infos(folder, page):
            if not any(part.startswith(".") for part in info.uri[start:].split("/")):
                yield info


def glob(pattern: str) -> dict[str, FileInfo | None]:
    bucket, key = place(pattern)
    root = f"{pattern.split('://', 1)[0]}://{bucket}"
    if "**" in key:
        whole = re.compile(glob_translate(key))
        pages = _pages(root, _MAGIC.split(key, maxsplit=1)[0])
        infos = (info for page in pages for info in _infos(root, page))
        found: dict[str, FileInfo | None] = {
            info.uri: info for info in infos if whole.fullmatch(place(info.uri)[1])
        }
    else:
        found = dict(_matches(root, "", key.split("/")))
    return dict(sorted(found.items()))


def _matches(root: str, folder: str, parts: list[str]) -> Iterator[tuple[str, FileInfo | None]]:
    """Yields what lies below a folder and fits the parts of a pattern, one level per part."""
    part, *deeper = parts
    if not _MAGIC.search(part):
        uri = f"{root}/{escaped(folder + part)}"
        if deeper:
            yield from _matches(root, f"{folder}{part}/", deeper)
        elif (info := stat(uri)) is not None or is_folder(uri):
            yield uri, info
        return
    fits = re.compile(fnmatch.translate(part))
    for page in _pages(root, folder + _MAGIC.split(part, maxsplit=1)[0], "/"):
        for entry in page.get("CommonPrefixes", ()):
            name = entry["Prefix"][len(folder) : -1]
            if fits.match(name) and deeper:
                yield from _matches(root, f"{folder}{name}/", deeper)
            elif fits.match(name):
                yield f"{root}/{escaped(folder + name)}", None
        for info in _infos(root, page) if not deeper else ():
            if fits.match(place(info.uri)[1][len(folder) :]):
                yield info.uri, info


def put(uri: str, data: bytes) -> None:
    bucket, key = place(uri)
    if len(data) <= 2 * PIECE_BYTES:
        demand("put_object", uri, Bucket=bucket, Key=key, Body=data)
        return
    for _ in range(UPLOADS_AT_MOST):
        try:
            return _upload(uri, data)
        except FileNotFoundError:
            # The upload is gone: its completion took effect and the answer was lost, or a sweep took it.
            continue
    raise StorageError(f"{uri}: the upload was taken away {UPLOADS_AT_MOST} times while it was written")


def _upload(uri: str, data: bytes) -> None:
    """Writes a large object in parts; it is there when the last request completes it, and not before."""
    bucket, key = place(uri)
    where = {"Bucket": bucket, "Key": key}
    where["UploadId"] = demand("create_multipart_upload", uri, **where)["UploadId"]

    def send(number: int) -> dict[str, Any]:
        body = data[(number - 1) * PIECE_BYTES : number * PIECE_BYTES]
        sent = demand("upload_part", uri, **where, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    completed = False
    try:
        with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
            parts = list(pool.map(send, range(1, -(-len(data) // PIECE_BYTES) + 1)))
        demand("complete_multipart_upload", uri, **where, MultipartUpload={"Parts": parts})
        completed = True
    finally:
        if not completed:
            _abort(uri, where)


def _abort(uri: str, where: dict[str, str]) -> None:
    try:
        request("abort_multipart_upload", uri, **where)
    except (OSError, StorageError):
        return  # The sweep at the next start takes what is left.


def put_new(uri: str, data: bytes) -> bool:
    bucket, key = place(uri)

    def attempt() -> bool:
        try:
            call("put_object", uri, Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except FileExistsError:
            # Perhaps an earlier try (of ours, or of the HTTP client's own) wrote it and its answer was lost.
            with contextlib.suppress(FileNotFoundError):
                return read(uri) == data
            return False
        return True

    try:
        return retried(attempt, uri)
    except PermissionError as error:
        raise StorageError(str(error)) from error


def delete(uri: str) -> None:
    bucket, key = place(uri)
    demand("delete_object", uri, Bucket=bucket, Key=key)


def sweep(folder: str) -> int:
    bucket, key = place(folder)
    prefix, swept = f"{key}/" if key else "", 0
    for page in list(_pages(folder, f"{prefix}{TEMPORARY_PREFIX}probe-")):
        for info in _infos(folder, page):
            delete(info.uri)
            swept += 1
    more: dict[str, str] = {}
    while prefix:
        try:
            page = request("list_multipart_uploads", folder, Bucket=bucket, Prefix=prefix, **more)
        except PermissionError:
            # A role that may only read and write objects has no say in uploads.
            return swept
        for upload in page.get("Uploads", ()):
            _abort(folder, {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})
            swept += 1
        if not page.get("IsTruncated"):
            break
        more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    return swept
