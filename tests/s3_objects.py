"""What the tests of S3 put into a bucket and look at there, behind the project's back."""

import io
import os
import re
import tarfile
import urllib.request

from tests.s3_faults import Service

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
