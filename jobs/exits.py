"""Exit statuses, which scripts read."""

DONE = 0
REJECTS = 1  # finished, and some records were rejected
USAGE = 2  # the request cannot be met, or something it needs is missing
INTERRUPTED = 3  # the same command continues
STOPPED = 4  # stopped by --max-reject-rate
CRASHED = 70  # a bug of ours; the traceback says where
