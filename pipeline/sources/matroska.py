"""What a Matroska or WebM file lacks, which libav does not say: it looks for the next whole cluster and goes on.

The format: RFC 8794 (EBML) and RFC 9559.
"""

from collections.abc import Iterable
from itertools import pairwise

from pipeline.sources.video_reads import Reads, Span

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# Cues, Tags, SeekHead, Attachments, Chapters, Info, Tracks: what may follow the pictures, at any length.
_AFTERWORDS = tuple(
    bytes.fromhex(name) for name in "1c53bb6b 1254c367 114d9b74 1941a469 1043a770 1549a966 1654ae6b".split()
)
# What stands between two packets is a few dozen bytes long, or some hundred where a frame carries notes.
LARGEST_GAP = 1024


def missing_tail(reads: Reads) -> str | None:
    """Says how much of a file is not there, from the size that it states at its head."""
    reads.seek(0)
    head = reads.read(256)
    if not head.startswith(_EBML):
        return None
    length, at = _vint(head, 4)
    at += length or 0
    if head[at : at + 4] != _SEGMENT:
        return None
    length, at = _vint(head, at + 4)
    if length is None or at + length <= reads.size:
        return None
    return f"{reads.size} of {at + length} bytes are there"


def lost_bytes(reads: Reads, spans: Iterable[Span]) -> str | None:
    """Says how much of a file lies between its packets, or behind them, without being anything."""
    known = sorted(spans)
    if not known:
        return None
    last = max(stop for _, stop in known)
    reads.seek(last)
    behind = reads.read(LARGEST_GAP)
    places = [place for name in _AFTERWORDS if (place := behind.find(name)) >= 0]
    end = last + min(places) if places else reads.size
    gaps = [start - stop for (_, stop), (start, _) in pairwise([*known, (end, end)])]
    lost = sum(gap for gap in gaps if gap > LARGEST_GAP)
    return f"{lost} of {reads.size} bytes are damaged, and the frames in them gone" if lost else None


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """Reads an EBML length and returns it with the place behind it; None stands for an unknown one."""
    width = 9 - data[at].bit_length() if at < len(data) and data[at] else 8
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), at + width
