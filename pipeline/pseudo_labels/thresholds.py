"""How sure a hand must be to become a label: one confidence for all, others for a side, sources or pictures."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """The least confidence of a side's hands (None: of both sides') in what matches a glob.

    A glob matches a source, or a source and a key below it, as a loose picture has them: as a person writes them,
    without the escapes of a URI.
    """

    side: str | None
    pattern: str
    least: float

    def names(self, source: str, key: str) -> bool:
        """Says whether the glob matches them."""
        places = (source, unquote(source), f"{unquote(source)}/{key}")
        return any(fnmatch.fnmatchcase(place, self.pattern) for place in places)


@dataclass(frozen=True)
class Thresholds:
    """The least confidence, rules that take its place (the last one that applies), and the largest expected error.

    max_error_mm: for the column `expected_error_mm`, which calibrated annotations have; None for no limit.
    """

    least: float
    rules: tuple[Rule, ...] = ()
    max_error_mm: float | None = None

    def confidence(self, source: str, key: str, side: str) -> float:
        """Returns the least confidence that a hand of this side, source (a canonical URI) and key must have."""
        applying = [
            rule.least for rule in self.rules if rule.side in (None, side) and rule.names(source, key)
        ]
        return applying[-1] if applying else self.least


def thresholds(least: float, rules: Sequence[str], max_error_mm: float | None) -> Thresholds:
    """Reads `[SIDE:]GLOB=X` rules, such as `left:*=0.6`, `*/night/*=0.7` or `right:*.mp4=0.5`.

    Raises:
        ConfigError: a rule of another form, or a number out of its range.
    """
    if not 0 <= least <= 1:
        raise ConfigError(f"--min-confidence {least:g}: must be between 0 and 1")
    if max_error_mm is not None and not max_error_mm > 0:
        raise ConfigError(f"--max-expected-error {max_error_mm:g}: must be more than 0")
    return Thresholds(least, tuple(map(_rule, rules)), max_error_mm)


def _rule(text: str) -> Rule:
    where, _, number = text.rpartition("=")
    first, colon, rest = where.partition(":")
    side, pattern = (first, rest) if colon and first in ("left", "right") else (None, where)
    try:
        least = float(number)
    except ValueError:
        least = -1.0
    if not pattern or not 0 <= least <= 1:
        raise ConfigError(
            f"--min-confidence-of {text}: must be [SIDE:]GLOB=X with X between 0 and 1, as left:*=0.6 or */night/*=0.7"
        )
    return Rule(side, pattern, least)
