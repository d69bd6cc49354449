"""Storage as a file system of Arrow's, for libraries that write through one."""

import fsspec
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from pipeline.stores import local


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """Returns the file system of a canonical URI and the path in it."""
    if uri.startswith("file://"):
        return LocalFileSystem(), str(local.to_path(uri))
    # Listings are never cached: a file that another machine has just written must be seen.
    opened, path = fsspec.core.url_to_fs(uri.replace("s3a://", "s3://", 1), use_listings_cache=False)
    return PyFileSystem(FSSpecHandler(opened)), path
