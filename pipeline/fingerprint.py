"""What tells one job's settings from another's."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """Returns a digest of JSON values, whatever the order of their keys: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
