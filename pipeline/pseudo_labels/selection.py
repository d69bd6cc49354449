"""The choice among all surveyed hands: near-duplicates and equal pictures out, sources and poses balanced.

The choice is global, so it is made in one process, from the surveys. It holds about 27 bytes per hand (which of them
are left, ranks and hashes) and five times as much while it looks for equal pictures. What is larger, joints and poses,
passes by.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.pseudo_labels import clusters
from pipeline.pseudo_labels.near_duplicates import Motion, Walk
from pipeline.pseudo_labels.picture_hash import first_of_equal
from pipeline.pseudo_labels.survey import TOO_FAR_OFF, UNREADABLE, UNSURE, read_surveys, vectors
from pipeline.records import Unit

FILE = "selection.json"
ROWS = "selection"
SHARDS_A_FILE = 250  # a file's footer is read with the rows of each of its shards
_ROWS_FILE = re.compile(rf"{ROWS}/\d{{6,}}\.parquet")
KEPT = "kept"
REASONS = (
    KEPT,
    UNSURE,
    TOO_FAR_OFF,
    UNREADABLE,
    NEAR_DUPLICATE := "near-duplicate",
    EQUAL := "equal picture",
    OF_SOURCE := "over the source's share",
    OF_POSE := "over the pose's share",
)
BINS = 20  # of the histograms of confidence

SELECTION = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("pose_cluster", pa.int16()),
    ]
)
"""A row per chosen hand, in the order of the annotations, a row group per shard and `SHARDS_A_FILE` of those a file.
row: its number in the unit's annotations. number: that of its picture in the output."""


@dataclass(frozen=True)
class Balance:
    """What is taken of the hands that are sure enough.

    per_source: most hands of a film, shard or folder. per_cluster: most hands of each of `clusters` kinds of finger
    poses. Those of the lowest ranks are taken. equal_bits: how many of the 128 bits of two equal pictures' hashes may
    differ, None to keep equal pictures.
    """

    motion: Motion
    equal_bits: int | None
    per_source: int | None
    clusters: int
    per_cluster: int | None
    seed: int


@dataclass
class Chosen:
    """What a selection came to. counts: hands by side, source and what became of them. histograms: hands by
    confidence, `BINS` bins, by what became of them. poses: hands left and taken of each cluster. examples: the hands
    of the lowest ranks by what became of them: unit id and row."""

    hands: int = 0
    pictures: int = 0
    shards: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    poses: list[tuple[int, int]] = field(default_factory=list)
    examples: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def by_reason(self) -> dict[str, int]:
        """Returns how many hands came to what, in the order in which it is decided."""
        sums = Counter[str]()
        for (_, _, reason), number in self.counts.items():
            sums[reason] += number
        return {reason: sums[reason] for reason in REASONS}

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON holds it."""
        counts = [[*place, number] for place, number in sorted(self.counts.items())]
        return {**vars(self), "counts": counts}

    @classmethod
    def of_plain(cls, found: Mapping[str, Any]) -> "Chosen":
        counts = Counter({(side, source, what): n for side, source, what, n in found["counts"]})
        return cls(**{**found, "counts": counts})


@dataclass
class _Hands:
    """All surveyed hands: `fate` is a number of REASONS; unit u has rows starts[u] to starts[u + 1]."""

    starts: NDArray[np.int64]
    fate: NDArray[np.uint8]
    rank: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    left: NDArray[np.bool_]
    cluster: NDArray[np.int16]

    def remaining(self, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
        return np.flatnonzero(self.fate[first:last] == 0) + first


def select(output: str, units: Sequence[Unit], balance: Balance) -> tuple[Chosen, _Hands]:
    """Decides about every hand of the surveyed units, in the order of the units."""
    hands = _read(output, units, balance.motion)
    if balance.equal_bits is not None:
        for side in (False, True):
            rows = hands.remaining()
            rows = rows[hands.left[rows] == side]
            first = first_of_equal(hands.hashes[rows], balance.equal_bits)
            hands.fate[rows[~first]] = REASONS.index(EQUAL)
    if balance.per_source is not None:
        for first_unit, last_unit in _sources(units):
            rows = hands.remaining(int(hands.starts[first_unit]), int(hands.starts[last_unit]))
            _cap(hands, rows, balance.per_source, OF_SOURCE)
    chosen = Chosen()
    if balance.per_cluster is not None:
        _cluster(output, units, hands, balance)
        kinds = int(hands.cluster.max(initial=-1)) + 1
        before = np.bincount(hands.cluster[hands.remaining()], minlength=kinds)
        for kind in range(kinds):
            rows = hands.remaining()
            _cap(hands, rows[hands.cluster[rows] == kind], balance.per_cluster, OF_POSE)
        after = np.bincount(hands.cluster[hands.remaining()], minlength=kinds)
        chosen.poses = list(zip(before.tolist(), after.tolist(), strict=True))
    return chosen, hands


def store(
    output: str,
    units: Sequence[Unit],
    chosen: Chosen,
    hands: _Hands,
    *,
    per_shard: int,
    examples: int,
    fingerprint: str,
) -> Chosen:
    """Writes the rows below OUTPUT/selection/, then selection.json, whose existence says that all is decided; returns
    what came of it.

    per_shard: pictures a shard. examples: how many hands of each fate to name.
    """
    chosen.histograms = {reason: [0] * BINS for reason in REASONS}
    rows = _rows(output, units, hands, chosen)
    for number, of_file in groupby(rows, lambda row: row["number"] // per_shard // SHARDS_A_FILE):
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, SELECTION, compression="zstd") as writer:
            for _, of_shard in groupby(of_file, lambda row: row["number"] // per_shard):
                writer.write_table(pa.Table.from_pylist(list(of_shard), schema=SELECTION))
                chosen.shards += 1
        storage.put(_rows_uri(output, number), sink.getvalue())
    chosen.examples = _examples(units, hands, examples)
    said = {"fingerprint": fingerprint, "chosen": chosen.plain()}
    storage.put(storage.join(output, FILE), json.dumps(said, sort_keys=True).encode())
    return chosen


def stored(output: str, fingerprint: str) -> Chosen | None:
    """Returns the selection that is there, None where there is none of this fingerprint."""
    try:
        said = json.loads(storage.read(storage.join(output, FILE)))
    except (FileNotFoundError, ValueError):
        return None
    return Chosen.of_plain(said["chosen"]) if said.get("fingerprint") == fingerprint else None


def forget_selection(output: str) -> None:
    """Removes the selection that is there, first what says that all is decided."""
    storage.delete(storage.join(output, FILE))
    rows = storage.list_files(storage.join(output, ROWS))
    storage.delete_all(file.uri for file in rows if _ROWS_FILE.fullmatch(storage.key_below(output, file.uri)))


def shard_rows(output: str, shard: int) -> pa.Table:
    """Returns the chosen hands of a shard."""
    file, group = divmod(shard, SHARDS_A_FILE)
    with storage.open_input(_rows_uri(output, file)) as stream:
        return pq.ParquetFile(stream).read_row_group(group)


def _rows_uri(output: str, number: int) -> str:
    return storage.join(output, ROWS, f"{number:06d}.parquet")


def _read(output: str, units: Sequence[Unit], motion: Motion) -> _Hands:
    """Reads the surveys once, and drops what hardly moved."""
    columns = ["left", "bbox", "joints", "picture", "picture_hash", "hand_hash", "rank", "dropped"]
    parts: list[tuple[NDArray[Any], ...]] = []
    source, walk = None, Walk(motion)
    for unit, table in read_surveys(output, units, columns):
        if unit.input != source:
            source, walk = unit.input, Walk(motion)
        fate = np.array([REASONS.index(reason or KEPT) for reason in table["dropped"].to_pylist()], np.uint8)
        left = np.array(table["left"].to_pylist(), bool)
        boxes, joints = vectors(table, "bbox"), vectors(table, "joints").reshape(-1, 21, 3)
        pictures, last_picture = table["picture"].to_numpy(), -1
        for row in np.flatnonzero(fate == 0):
            if pictures[row] != last_picture:
                last_picture = pictures[row]
                walk.next_picture()
            if not walk.keeps("left" if left[row] else "right", joints[row], boxes[row]):
                fate[row] = REASONS.index(NEAR_DUPLICATE)
        hashes = np.stack([table["picture_hash"].to_numpy(), table["hand_hash"].to_numpy()], axis=1)
        parts.append((fate, table["rank"].to_numpy(), hashes, left))
    lengths = [len(fate) for fate, *_ in parts]
    count = sum(lengths)
    empty = (np.zeros(0, np.uint8), np.zeros(0, np.uint64), np.zeros((0, 2), np.uint64), np.zeros(0, bool))
    fate, rank, hashes, left = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    starts = np.cumsum([0, *lengths])
    return _Hands(starts, fate, rank, hashes, left, np.full(count, -1, np.int16))


def _sources(units: Sequence[Unit]) -> Iterator[tuple[int, int]]:
    """Yields the runs of units that are of one input."""
    first = 0
    for number in range(1, len(units) + 1):
        if number == len(units) or units[number].input != units[first].input:
            yield first, number
            first = number


def _cap(hands: _Hands, rows: NDArray[np.int64], most: int, reason: str) -> None:
    """Keeps so many of these rows, those of the lowest ranks."""
    if len(rows) > most:
        over = np.argpartition(hands.rank[rows], most)[most:] if most else np.arange(len(rows))
        hands.fate[rows[over]] = REASONS.index(reason)


def _cluster(output: str, units: Sequence[Unit], hands: _Hands, balance: Balance) -> None:
    """Puts every remaining hand into a cluster of finger poses, fitted on those of the lowest ranks."""
    left = hands.remaining()
    if not len(left):
        return
    ranks = hands.rank[left]
    fitted_on = left[np.argsort(ranks, kind="stable")[: clusters.FITTED_ON]]
    wanted = np.zeros(len(hands.fate), bool)
    wanted[fitted_on] = True
    sample = [poses[wanted[rows]] for rows, poses in _poses(output, units, hands)]
    centres = clusters.fit(np.concatenate(sample), balance.clusters, balance.seed)
    for rows, poses in _poses(output, units, hands):
        hands.cluster[rows] = clusters.assign(poses, centres)


def _poses(
    output: str, units: Sequence[Unit], hands: _Hands
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields, unit by unit, the remaining hands and their finger poses."""
    for number, (_, table) in enumerate(read_surveys(output, units, ["left", "hand_pose"])):
        first, last = int(hands.starts[number]), int(hands.starts[number + 1])
        rows = hands.remaining(first, last)
        poses = clusters.as_right(vectors(table, "hand_pose"), hands.left[first:last])
        yield rows, poses[rows - first]


def _rows(output: str, units: Sequence[Unit], hands: _Hands, chosen: Chosen) -> Iterator[dict[str, Any]]:
    """Yields the rows of the selection, and counts what became of every hand on the way."""
    for number, (unit, table) in enumerate(read_surveys(output, units, ["left", "confidence", "picture"])):
        first = int(hands.starts[number])
        confidence = table["confidence"].to_numpy()
        bins = np.clip(np.nan_to_num(confidence) * BINS, 0, BINS - 1).astype(int)
        pictures = table["picture"].to_pylist()
        last_picture = None
        for row in range(table.num_rows):
            reason = REASONS[hands.fate[first + row]]
            side = "left" if hands.left[first + row] else "right"
            chosen.hands += 1
            chosen.counts[side, unit.input, reason] += 1
            chosen.histograms[reason][bins[row]] += 1
            if reason != KEPT:
                continue
            if pictures[row] != last_picture:
                last_picture = pictures[row]
                chosen.pictures += 1
            kind = int(hands.cluster[first + row])
            yield {
                "unit_id": unit.unit_id,
                "row": row,
                "number": chosen.pictures - 1,
                "pose_cluster": None if kind < 0 else kind,
            }


def _examples(units: Sequence[Unit], hands: _Hands, most: int) -> dict[str, list[tuple[str, int]]]:
    found = {}
    for fate, reason in enumerate(REASONS):
        rows = np.flatnonzero(hands.fate == fate)
        rows = rows[np.argsort(hands.rank[rows], kind="stable")[:most]]
        unit = np.searchsorted(hands.starts, rows, side="right") - 1
        found[reason] = [
            (units[u].unit_id, int(row - hands.starts[u])) for u, row in zip(unit, rows, strict=True)
        ]
    return found
