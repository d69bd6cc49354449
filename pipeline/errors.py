"""The errors of the pipeline.

    HandoccError
    ├── ConfigError   this request cannot be met; it stops the job before anything moves (exit status 2)
    │   └── StorageError   a place that it names refuses or, after all retries, does not answer
    │       └── PartGone   what a job reads was taken away under it (pipeline.sinks.parts)
    ├── Interrupted   the job ended in the middle and can go on from there (exit status 3)
    └── DataError     this record cannot be used; it ends in the ledger and the job goes on

Anything else is a bug and crashes with its traceback.
"""


class HandoccError(Exception):
    """What this project raises on purpose; the message is one line."""


class ConfigError(HandoccError):
    """A request that cannot be met: what is wrong, which value, and the way out."""


class StorageError(ConfigError):
    """A place that refuses (no such bucket, no permission, disk full) or, after all retries, does not answer.

    No OSError: what is wrong with a place must never count as what is wrong with one record.
    """


class Interrupted(HandoccError):  # noqa: N818
    """A job that ended in the middle through no fault of its request or its data; `then` says how it goes on."""

    def __init__(self, message: str, then: str = "the same command continues from here") -> None:
        super().__init__(message)
        self.then = then


class DataError(HandoccError):
    """A record that cannot be used.

    `kind` is one of a small set of stable phrases ("unreadable image"), by which rejects are counted;
    `detail` says what is wrong with this one.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind = kind
        # What names hold beside Unicode goes into no table.
        self.detail = " ".join(detail.encode("utf-8", "backslashreplace").decode().split())[:300]
        super().__init__(f"{kind}: {self.detail}" if self.detail else kind)

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, str]]:
        return DataError, (self.kind, self.detail)
