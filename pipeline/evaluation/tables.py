"""The paper's tables as data, and rows of ours beside its rows.

J. Park et al., HandOccNet, CVPR 2022, Tables 1-6, and S1 and S2 of its supplement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Column:
    """A column: its heading, the metric below it, and what the metric is multiplied by to stand there."""

    heading: str
    metric: str
    scale: float = 1.0
    decimals: int = 1


@dataclass(frozen=True)
class Row:
    """A method and its numbers, None where there is none."""

    method: str
    values: tuple[float | None, ...]
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """One table; `name` is the paper's, empty for one that the paper does not have."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = ()


_HO3D: Final = (
    Column("PA joint mm", "pa_mpjpe_mm"),
    Column("PA mesh mm", "pa_mpvpe_mm"),
    Column("F@5 %", "pa_f5", 100),
    Column("F@15 %", "pa_f15", 100),
)
_BOTH: Final = (
    Column("joint mm", "mpjpe_mm", decimals=2),
    Column("PA joint mm", "pa_mpjpe_mm", decimals=2),
    Column("mesh mm", "mpvpe_mm", decimals=2),
    Column("PA mesh mm", "pa_mpvpe_mm", decimals=2),
    Column("PA F@5 %", "pa_f5", 100),
    Column("PA F@15 %", "pa_f15", 100),
)


def _rows(*rows: tuple[str | float, ...]) -> tuple[Row, ...]:
    return tuple(Row(str(row[0]), tuple(float(value) for value in row[1:])) for row in rows)


TABLE_1: Final = Table(
    "Table 1",
    "HO-3D: between backbone and regressor",
    _HO3D,
    _rows(
        ("identity", 10.6, 10.0, 52.5, 94.9),
        ("residual blocks (six)", 10.2, 9.8, 51.0, 95.3),
        ("FIT", 9.4, 9.2, 54.3, 96.0),
        ("SET", 9.8, 9.6, 52.6, 95.3),
        ("FIT and SET", 9.1, 8.8, 56.4, 96.3),
    ),
)
TABLE_2: Final = Table(
    "Table 2",
    "HO-3D: attention in FIT",
    _HO3D,
    _rows(
        ("softmax", 9.5, 9.1, 54.5, 95.9),
        ("softmax and softmax", 9.6, 9.2, 53.6, 95.9),
        ("softmax and sigmoid", 9.1, 8.8, 56.4, 96.3),
    ),
)
TABLE_3: Final = Table(
    "Table 3",
    "HO-3D: residual connection in FIT",
    _HO3D,
    _rows(
        ("with q_soft", 9.5, 9.1, 55.0, 96.0),
        ("with q_sig", 9.7, 9.3, 53.3, 95.7),
        ("without", 9.1, 8.8, 56.4, 96.3),
    ),
)
TABLE_4: Final = Table(
    "Table 4",
    "HO-3D: SET",
    _HO3D,
    _rows(
        ("identity", 9.4, 9.2, 54.3, 96.0),
        ("residual blocks (three)", 9.6, 9.2, 54.4, 95.9),
        ("one transformer", 9.1, 8.8, 56.4, 96.3),
        ("two transformers", 9.2, 8.9, 56.2, 96.3),
    ),
)
TABLE_5: Final = Table(
    "Table 5",
    "HO-3D",
    _HO3D,
    _rows(
        ("Pose2Mesh", 12.5, 12.7, 44.1, 90.9),
        ("Hasson 2020", 11.4, 11.4, 42.8, 93.2),
        ("I2L-MeshNet", 11.2, 13.9, 40.9, 93.2),
        ("Hasson 2019", 11.1, 11.0, 46.0, 93.0),
        ("Hampali", 10.7, 10.6, 50.6, 94.2),
        ("METRO", 10.4, 11.1, 48.4, 94.6),
        ("Liu", 10.2, 9.8, 52.9, 95.0),
        ("HandOccNet", 9.1, 8.8, 56.4, 96.3),
    ),
)
TABLE_6: Final = Table(
    "Table 6",
    "FPHA",
    (Column("PA joint mm", "pa_mpjpe_mm"),),
    _rows(
        ("I2L-MeshNet", 21.2),
        ("Hasson 2020", 18.0),
        ("Liu", 16.0),
        ("Hasson 2019", 14.9),
        ("HandOccNet", 10.8),
    ),
)
TABLE_S1: Final = Table(
    "Table S1",
    "HO-3D, before alignment",
    (Column("joint mm", "mpjpe_mm"),),
    _rows(
        ("Pose2Mesh", 33.2),
        ("Hasson 2019", 55.2),
        ("I2L-MeshNet", 26.8),
        ("Liu", 30.0),
        ("HandOccNet", 24.9),
    ),
)
TABLE_S2: Final = Table(
    "Table S2",
    "DexYCB",
    (
        Column("joint mm", "paper_mpjpe_mm", decimals=2),
        Column("PA joint mm", "paper_pa_mpjpe_mm", decimals=2),
    ),
    _rows(
        ("METRO", 15.24, 6.99),
        ("Spurr", 17.34, 6.83),
        ("Liu", 15.28, 6.58),
        ("HandOccNet", 14.04, 5.80),
    ),
)

# The comparisons of each benchmark, and the ablations.
TABLES: Final[dict[str, tuple[Table, ...]]] = {
    "ho3d-v2": (TABLE_5, TABLE_S1),
    "ho3d-v3": (Table("", "HO-3D version 3", _BOTH),),
    "fpha": (TABLE_6,),
    "dexycb": (TABLE_S2, Table("", "DexYCB, by its toolkit", _BOTH)),
    "freihand": (Table("", "FreiHAND", _BOTH),),
    "shards": (Table("", "these shards", _BOTH),),
}
ABLATIONS: Final[dict[str, tuple[Table, ...]]] = {"ho3d-v2": (TABLE_1, TABLE_2, TABLE_3, TABLE_4)}
MARK: Final = "paper"


def with_row(table: Table, method: str, means: Mapping[str, float], prefix: str = "") -> Table:
    """Returns the table with a row of ours at its end; a metric that was not measured leaves its place empty."""
    found = (means.get(prefix + column.metric) for column in table.columns)
    values = tuple(
        None if mean is None or mean != mean else mean * column.scale
        for mean, column in zip(found, table.columns, strict=True)
    )
    rows = (*table.rows, Row(method, values, ours=True))
    return Table(table.name, table.title, table.columns, rows)


def to_text(table: Table) -> str:
    """Returns a table as Markdown that is aligned for the eye; every row says whose it is."""
    heading = ["method", "of", *(column.heading for column in table.columns)]
    lines = [heading]
    for row in table.rows:
        values = [
            "" if value is None else f"{value:.{column.decimals}f}"
            for value, column in zip(row.values, table.columns, strict=True)
        ]
        lines.append([row.method, "this run" if row.ours else MARK, *values])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    body = [_line(line, widths) for line in lines]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if n < 2 else ":") for n, width in enumerate(widths)) + "|"
    title = f"{table.name} of the paper: {table.title}" if table.name else table.title
    return "\n".join([f"### {title}", "", body[0], rule, *body[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if number < 2 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(aligned) + " |"
