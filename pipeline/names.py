"""Names of files and archive members as text that every table can hold, whatever bytes they are made of."""

import re

_SURROGATE = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def to_text(name: str) -> str:
    r"""Returns a name, as Python gives it for a file, as valid Unicode; almost always the name itself.

    A byte that is not UTF-8 (in Python a lone surrogate) becomes `\xff`. A backslash becomes `\x5c` in such a name,
    and in one that has `\xff` among its own characters: different names stay different.
    """
    if name.isascii() and "\\" not in name:
        return name
    if not _SURROGATE.search(name) and not _ESCAPE.search(name):
        return name
    escaped = name.replace("\\", r"\x5c")
    return _SURROGATE.sub(lambda found: rf"\x{ord(found[0]) - 0xDC00:02x}", escaped)


def from_text(text: str) -> str:
    """Returns the name that `to_text` made this text of."""
    return _ESCAPE.sub(lambda found: _character(int(found[1], 16)), text)


def _character(byte: int) -> str:
    return "\\" if byte == 0x5C else chr(0xDC00 + byte)
