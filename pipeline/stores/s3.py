"""Objects on S3 or a service like it, through s3fs: every request is tried again, every answer is checked.

Credentials, profile, region, endpoint and the rest come from the environment and ~/.aws, as the AWS tools
take them; `FSSPEC_S3='{"…": …}'` sets whatever else s3fs can take.
"""

import contextlib
import fnmatch
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync
from fsspec.utils import glob_translate
from s3fs import S3FileSystem

from pipeline.errors import StorageError
from pipeline.stores.local import TEMPORARY_PREFIX
from pipeline.stores.range_file import SMALLEST_FETCH, RangeFile
from pipeline.stores.retries import Transient, retried
from pipeline.stores.s3_errors import explained
from pipeline.stores.store import FileInfo

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
CONNECTIONS = 64
PIECE_BYTES = 32 << 20
PIECES_AT_ONCE = 4
UPLOADS_AT_MOST = 3

_YES = frozenset({"1", "true", "yes", "requester"})
_MAGIC = re.compile(r"[*?\[]")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_FAILURES = (OSError, BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError)
_filesystems: dict[tuple[Any, ...], S3FileSystem] = {}


def escaped(key: str) -> str:
    """Returns a key as it stands in a URI: `?` would begin a query."""
    return re.sub(r"\?|%(?=25|3F)", lambda found: "%3F" if found[0] == "?" else "%25", key)


def unescaped(path: str) -> str:
    """Undoes `escaped`."""
    return re.sub(r"%(25|3F)", lambda found: "%" if found[1] == "25" else "?", path)


def _place(uri: str) -> tuple[str, str]:
    """Returns bucket and key."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    return bucket, unescaped(key)


def _filesystem() -> S3FileSystem:
    """Returns this process's file system; a forked child and a changed environment get one of their own."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (os.getpid(), environment)
    if key not in _filesystems:
        filesystem = S3FileSystem(skip_instance_cache=True, use_listings_cache=False, **_options())
        filesystem.retries = 1
        _filesystems.setdefault(key, filesystem)
    return _filesystems[key]


def _options() -> dict[str, Any]:
    """Returns what botocore does not take from the environment by itself, and one layer of retries: ours."""
    said = fsspec.config.conf.get("s3", {})
    options: dict[str, Any] = {
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "max_pool_connections": CONNECTIONS,
            "retries": {"total_max_attempts": 1},
            **said.get("config_kwargs", {}),
        }
    }
    if region := os.environ.get("AWS_REGION"):
        options["client_kwargs"] = {"region_name": region, **said.get("client_kwargs", {})}
    if os.environ.get("AWS_REQUEST_PAYER", "").lower() in _YES:
        options["requester_pays"] = True
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in _YES:
        options["anon"] = True
    return options


def _call(method: str, uri: str, **parameters: Any) -> dict[str, Any]:
    """Makes one request, once; a body is read to its end and stands in the answer as `Data`."""
    try:
        filesystem = _filesystem()
        answer: dict[str, Any] = sync(filesystem.loop, _answer, filesystem, method, parameters)
    except _FAILURES as error:
        # s3fs turns the service's error into an OSError and names it as the cause.
        cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
        raise explained(cause, uri) from error
    return answer


async def _answer(filesystem: S3FileSystem, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await filesystem._call_s3(method, **parameters)
    if "Body" in answer:
        async with answer["Body"] as body:
            answer["Data"] = await body.read()
    return answer


def _request(method: str, uri: str, **parameters: Any) -> dict[str, Any]:
    """Makes a request until it is answered."""
    return retried(lambda: _call(method, uri, **parameters), uri)


def _demand(method: str, uri: str, **parameters: Any) -> dict[str, Any]:
    """Makes a request without which no job can go on: to be denied it is an error of the whole place."""
    try:
        return _request(method, uri, **parameters)
    except PermissionError as error:
        raise StorageError(str(error)) from error


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
    bucket, key = _place(uri)
    condition = {"IfMatch": version} if version else {}

    def attempt() -> _Piece:
        span = f"bytes={first}-{last - 1}"
        answer = _call("get_object", uri, Bucket=bucket, Key=key, Range=span, **condition)
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
    bucket, key = _place(uri)
    if not key:
        return None
    try:
        found = _request("head_object", uri, Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    except OSError:
        # The answer to a HEAD has no body; a listing that fails as well says what is wrong.
        _demand("list_objects_v2", uri, Bucket=bucket, Prefix=key, MaxKeys=1)
        raise StorageError(f"{uri}: permission denied") from None
    return FileInfo(uri, int(found["ContentLength"]), str(found.get("ETag", "")).strip('"'))


def is_folder(uri: str) -> bool:
    bucket, key = _place(uri)
    page = _demand("list_objects_v2", uri, Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
    return not key or bool(page.get("Contents"))


def _pages(uri: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """Yields the pages of a listing, at most 1000 objects each, as they come."""
    bucket, _ = _place(uri)
    more: dict[str, str] = {}
    while True:

        def attempt(more: dict[str, str] = more) -> dict[str, Any]:
            page = _call(
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
        except PermissionError as error:
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
    _, key = _place(folder)
    prefix = f"{key}/" if key else ""
    start = len(folder.rstrip("/")) + 1
    for page in _pages(folder, prefix):
        for info in _infos(folder, page):
            if not any(part.startswith(".") for part in info.uri[start:].split("/")):
                yield info


def glob(pattern: str) -> dict[str, FileInfo | None]:
    bucket, key = _place(pattern)
    root = f"{pattern.split('://', 1)[0]}://{bucket}"
    if "**" in key:
        whole = re.compile(glob_translate(key))
        pages = _pages(root, _MAGIC.split(key, maxsplit=1)[0])
        infos = (info for page in pages for info in _infos(root, page))
        found: dict[str, FileInfo | None] = {
            info.uri: info for info in infos if whole.fullmatch(_place(info.uri)[1])
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
            if fits.match(_place(info.uri)[1][len(folder) :]):
                yield info.uri, info


def put(uri: str, data: bytes) -> None:
    bucket, key = _place(uri)
    if len(data) <= 2 * PIECE_BYTES:
        _demand("put_object", uri, Bucket=bucket, Key=key, Body=data)
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
    bucket, key = _place(uri)
    where = {"Bucket": bucket, "Key": key}
    where["UploadId"] = _demand("create_multipart_upload", uri, **where)["UploadId"]

    def send(number: int) -> dict[str, Any]:
        body = data[(number - 1) * PIECE_BYTES : number * PIECE_BYTES]
        sent = _demand("upload_part", uri, **where, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    completed = False
    try:
        with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
            parts = list(pool.map(send, range(1, -(-len(data) // PIECE_BYTES) + 1)))
        _demand("complete_multipart_upload", uri, **where, MultipartUpload={"Parts": parts})
        completed = True
    finally:
        if not completed:
            _abort(uri, where)


def _abort(uri: str, where: dict[str, str]) -> None:
    try:
        _request("abort_multipart_upload", uri, **where)
    except (OSError, StorageError):
        return  # The sweep at the next start takes what is left.


def put_new(uri: str, data: bytes) -> bool:
    bucket, key = _place(uri)

    def attempt() -> bool:
        try:
            _call("put_object", uri, Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
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
    bucket, key = _place(uri)
    _demand("delete_object", uri, Bucket=bucket, Key=key)


def sweep(folder: str) -> int:
    bucket, key = _place(folder)
    prefix, swept = f"{key}/" if key else "", 0
    for page in list(_pages(folder, f"{prefix}{TEMPORARY_PREFIX}probe-")):
        for info in _infos(folder, page):
            delete(info.uri)
            swept += 1
    more: dict[str, str] = {}
    while True:
        try:
            page = _request("list_multipart_uploads", folder, Bucket=bucket, Prefix=prefix, **more)
        except PermissionError:
            # A role that may only read and write objects has no say in uploads.
            return swept
        for upload in page.get("Uploads", ()):
            _abort(folder, {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})
            swept += 1
        if not page.get("IsTruncated"):
            return swept
        more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
