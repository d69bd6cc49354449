"""Tries again what may succeed a moment later: so many times, with pauses that grow and are random."""

import errno
import functools
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from pipeline.errors import StorageError

TRIES = 8
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 20.0
WORTH_A_WORD_S = 2.0
# What a mount or a short machine says in a bad hour; others (no such file, no permission, no file at all) are the
# object's, and so is EIO: it may be one bad sector, which nobody gets past by waiting.
_PASSING = frozenset(
    [
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN),
        *(
            errno.EREMOTEIO,
            errno.ENOTCONN,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
            errno.ENETDOWN,
            errno.ENETUNREACH,
        ),
    ]
)

Result = TypeVar("Result")
Rest = ParamSpec("Rest")
_log = logging.getLogger(__name__)


class Transient(Exception):  # noqa: N818 (it is no error until the tries are used up)
    """A failure that the next try may not meet: throttling, a 5xx, a broken connection, a short body."""


def retried(attempt: Callable[[], Result], where: str) -> Result:
    """Returns what an attempt returns; up to AWS_MAX_ATTEMPTS of them (8 by default, which takes 25 s of pauses).

    Raises:
        StorageError: every one met a `Transient` failure. Other exceptions pass at once.
    """
    tries = _tries()
    for number in range(1, tries + 1):
        try:
            return attempt()
        except Transient as error:
            reason = str(error)
        if number < tries:
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (number - 1))
            # Many workers are throttled at the same moment and must not come back at the same moment.
            pause = random.uniform(longest / 2, longest)
            if longest > WORTH_A_WORD_S:
                _log.warning("%s: %s; try %d of %d in %.0f s", where, reason, number + 1, tries, pause)
            time.sleep(pause)
    raise StorageError(f"{where}: storage does not answer as it should: {reason} ({tries} tries)")


def may_pass(error: OSError) -> bool:
    """Says whether an error is one of the storage in a bad hour, and says nothing of the object."""
    return error.errno in _PASSING or isinstance(error, ConnectionError | TimeoutError)


def asked(attempt: Callable[[], Result], where: str) -> Result:
    """Returns what an attempt returns; an OSError that may pass is met like a `Transient` one.

    Raises:
        StorageError: every try failed so. Other exceptions pass at once.
    """

    def told_apart() -> Result:
        try:
            return attempt()
        except OSError as error:
            if not may_pass(error):
                raise
            raise Transient(str(error) or type(error).__name__) from error

    return retried(told_apart, where)


def asking(
    function: Callable[Concatenate[str, Rest], Result],
) -> Callable[Concatenate[str, Rest], Result]:
    """Makes each call of a store's function, whose first argument is a URI, one that is `asked`."""

    @functools.wraps(function)
    def asks(uri: str, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        return asked(lambda: function(uri, *rest, **named), uri)

    return asks


def _tries() -> int:
    said = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(1, int(said)) if said.isdecimal() else TRIES
