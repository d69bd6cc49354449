"""Requests to S3 or a service like it, through s3fs: settings, connections, and retries in one layer.

Credentials, profile, region, endpoint and the rest come from the environment and ~/.aws, as the AWS tools
take them; `FSSPEC_S3='{"…": …}'` sets whatever else s3fs can take.
"""

import os
import re
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from pipeline.errors import StorageError
from pipeline.stores.retries import retried
from pipeline.stores.s3_errors import explained

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
CONNECTIONS = 64

_YES = frozenset({"1", "true", "yes", "requester"})
_FAILURES = (OSError, BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError)
_filesystems: dict[tuple[Any, ...], S3FileSystem] = {}


def escaped(key: str) -> str:
    """Returns a key as it stands in a URI: `?` would begin a query."""
    return re.sub(r"\?|%(?=25|3F)", lambda found: "%3F" if found[0] == "?" else "%25", key)


def unescaped(path: str) -> str:
    """Undoes `escaped`."""
    return re.sub(r"%(25|3F)", lambda found: "%" if found[1] == "25" else "?", path)


def place(uri: str) -> tuple[str, str]:
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


def call(method: str, uri: str, **parameters: Any) -> dict[str, Any]:
    """Makes one request, once; a body is read to its end and stands in the answer as `Data`."""
    try:
        filesystem = _filesystem()
        answer: dict[str, Any] = sync(filesystem.loop, _answer, filesystem, method, parameters)
    except _FAILURES as error:
        # s3fs turns the service's error into an OSError and names it as the cause.
        cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
        raise explained(cause, uri) from error
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):
            raise
        raise StorageError(f"{uri}: {error}; check AWS_ENDPOINT_URL") from error
    return answer


async def _answer(filesystem: S3FileSystem, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await filesystem._call_s3(method, **parameters)
    if "Body" in answer:
        async with answer["Body"] as body:
            answer["Data"] = await body.read()
    return answer


def request(method: str, uri: str, **parameters: Any) -> dict[str, Any]:
    """Makes a request until it is answered."""
    return retried(lambda: call(method, uri, **parameters), uri)


def demand(method: str, uri: str, **parameters: Any) -> dict[str, Any]:
    """Makes a request without which no job can go on: to be denied it is an error of the whole place."""
    try:
        return request(method, uri, **parameters)
    except PermissionError as error:
        raise StorageError(str(error)) from error
