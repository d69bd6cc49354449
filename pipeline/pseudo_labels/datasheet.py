"""OUTPUT/datasheet.html: one page on a set of pseudo-labels, with counts, histograms and pictures, for people."""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import pyarrow as pa

from pipeline import storage
from pipeline.gallery import strip
from pipeline.pictures import samples_of
from pipeline.pseudo_labels.manifest import Written
from pipeline.pseudo_labels.selection import KEPT, REASONS, Chosen
from pipeline.records import Unit
from pipeline.render import Picture, Tile, sheet
from pipeline.sinks.parts import Part, read_table

FILE = "datasheet.html"
SOURCES_SHOWN = 30
COLUMNS = 8
TILE = 200
CAPTION_LETTERS = 24

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1720px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em } th, td { padding: 0.15em 0.8em; text-align: right }
th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid #ddd }
img { max-width: 100% } svg { background: #fafafa; border: 1px solid #ddd } h2 { margin-top: 1.5em }
.kept { fill: #3a8f5c } .dropped { fill: #d08a6e } code { background: #f2f2f2; padding: 0 0.3em }
"""


@dataclass(frozen=True)
class Datasheet:
    """What the page is made of; units and parts are those of the annotations in `predictions`."""

    manifest: Mapping[str, Any]
    chosen: Chosen
    written: Written
    predictions: str
    units: Sequence[Unit]
    parts: Mapping[str, Part]


def write_datasheet(output: str, about: Datasheet) -> None:
    """Writes the page, pictures included, as one file."""
    storage.put(storage.join(output, FILE), page(about).encode("utf-8", "backslashreplace"))


def page(about: Datasheet) -> str:
    """Returns the page."""
    manifest, chosen = about.manifest, about.chosen
    hands = manifest["hands"]
    title = f"Pseudo-labels: {hands['kept']} hands in {manifest['pictures']} pictures"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(title)}</title><style>{STYLE}</style>",
        f"<h1>{_text(title)}</h1>",
        _facts(manifest),
        "<h2>What became of the hands</h2>",
        _fates("side", manifest["by_side"]),
        "<h2>Confidence</h2>",
        f"<p>{_text(manifest['confidence'])}; kept hands in green, dropped ones above them.</p>",
        histogram(chosen.histograms[KEPT], _dropped(chosen), "0", "1"),
    ]
    if chosen.poses:
        ordered = sorted(chosen.poses, reverse=True)
        parts += [
            f"<h2>Finger poses</h2><p>{len(ordered)} clusters, the largest first: taken, and left out above.</p>",
            histogram(
                [after for _, after in ordered], [n - after for n, after in ordered], "largest", "smallest"
            ),
        ]
    parts += ["<h2>Sources</h2>", _sources(manifest["by_source"]), *_examples(about), "</html>"]
    return "\n".join(parts)


def _facts(manifest: Mapping[str, Any]) -> str:
    weights, settings = manifest["weights"], manifest["settings"]
    rows = {
        "licence of the pictures": manifest["licence"],
        "labels made by": f"{manifest['model']}, weights {weights['sha256'][:16]} ({weights['source']})"
        + ("" if weights["trained"] else ": UNTRAINED"),
        "those were trained on": manifest["weights_trained_on"],
        "hand model": manifest["hand_model"],
        "shards": manifest["shards"],
        "mean weight of a hand": manifest["mean_weight"],
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
    }
    return _table([], [[name, str(value)] for name, value in rows.items()])


def _fates(kind: str, groups: Mapping[str, Mapping[str, int]]) -> str:
    """A table with a column per fate, and the sums."""
    shown = [reason for reason in REASONS if any(reason in row for row in groups.values())]
    rows = [
        [name, str(sum(row.values())), *(str(row.get(reason, 0)) for reason in shown)]
        for name, row in groups.items()
    ]
    if len(groups) > 1:
        sums = [sum(row.get(reason, 0) for row in groups.values()) for reason in shown]
        rows.append(["all", str(sum(sums)), *map(str, sums)])
    return _table([kind, "annotated", *shown], rows)


def _sources(groups: Mapping[str, Mapping[str, int]]) -> str:
    largest = sorted(groups, key=lambda name: (-sum(groups[name].values()), name))
    more = len(groups) - SOURCES_SHOWN
    note = f"<p>and {more} more, which <code>manifest.json</code> lists</p>" if more > 0 else ""
    return _fates("source", {name: groups[name] for name in largest[:SOURCES_SHOWN]}) + note


def histogram(kept: Sequence[int], dropped: Sequence[int], first: str, last: str) -> str:
    """Returns bars of two parts, kept below dropped, as SVG; first and last name the ends of the axis."""
    width, height, foot = 900, 180, 22
    most = max((one + other for one, other in zip(kept, dropped, strict=True)), default=0) or 1
    step = width / max(len(kept), 1)
    bars = []
    for number, (one, other) in enumerate(zip(kept, dropped, strict=True)):
        low, high = height * one / most, height * (one + other) / most
        place = f'x="{number * step + 0.5:.1f}" width="{max(step - 1, 0.5):.1f}"'
        bars.append(
            f"<g><title>{one} kept, {other} dropped</title>"
            f'<rect class="dropped" {place} y="{height - high:.1f}" height="{high - low:.1f}"/>'
            f'<rect class="kept" {place} y="{height - low:.1f}" height="{low:.1f}"/></g>'
        )
    ends = (
        f'<text x="2" y="{height + 16}" font-size="13">{_text(first)}</text>'
        f'<text x="{width - 2}" y="{height + 16}" font-size="13" text-anchor="end">{_text(last)}</text>'
        f'<text x="2" y="14" font-size="13">{most}</text>'
    )
    return f'<svg viewBox="0 0 {width} {height + foot}" width="{width}">{"".join(bars)}{ends}</svg>'


def _dropped(chosen: Chosen) -> list[int]:
    rows = [row for reason, row in chosen.histograms.items() if reason != KEPT]
    return [sum(column) for column in zip(*rows, strict=True)]


def _examples(about: Datasheet) -> Iterator[str]:
    trained = about.manifest["weights"]["trained"]
    for reason, places in about.chosen.examples.items():
        tiles = list(_tiles(about, places, None if trained else "UNTRAINED"))
        if tiles:
            rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
            heading = "kept" if reason == KEPT else f"dropped: {reason}"
            yield f"<h2>Examples, {_text(heading)}</h2>{_image(sheet(rows, tile=TILE))}"


def _tiles(about: Datasheet, places: Sequence[Sequence[Any]], stamp: str | None) -> Iterator[Tile]:
    """Yields a picture with box and joints of each hand (unit id and row) whose picture can still be read."""
    units = {unit.unit_id: unit for unit in about.units}
    rows_of: dict[str, list[int]] = {}
    for unit_id, row in places:
        rows_of.setdefault(unit_id, []).append(row)
    for unit_id, rows in rows_of.items():
        table: pa.Table = read_table(about.predictions, "annotations", about.parts[unit_id])
        for found, sample in samples_of(about.predictions, units[unit_id], table, rows):
            if sample.error is not None:
                continue
            for hand in table.take(found).to_pylist():
                tiles = strip(about.predictions, {**hand, "mesh": None}, sample, None, stamp).tiles
                if len(tiles) == 1:  # it cannot be decoded any more
                    continue
                joints = tiles[1]
                frame = "" if hand["frame_index"] is None else f" {hand['frame_index']}"
                name = f"{hand['key']}{frame}"[-CAPTION_LETTERS:]
                yield Tile(joints.image, f"{name} {hand['side']} {hand['confidence']:.2f}")


def _image(picture: Picture) -> str:
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done, "OpenCV could not encode a picture of our own"
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in ([first] if head else []) + lines) + "</table>"


def _text(text: str) -> str:
    return html.escape(text)
