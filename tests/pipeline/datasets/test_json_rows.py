"""Rows of long JSON files are those that a parser of the whole file finds."""

import json
from pathlib import Path

import pytest

from pipeline.datasets.json_rows import index_rows
from pipeline.errors import ConfigError

NASTY = ['a "quoted" ] word', "back\\slash\\", "\\", '\\"', "{[", "日本\u2028", ""]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return f"file://{path}"


def test_the_rows_of_an_array_are_found_across_the_pieces_in_which_it_is_read(tmp_path: Path) -> None:
    values = [
        {"name": NASTY[number % len(NASTY)], "long": '"]\\[' * (3500 + number), "xyz": [[number], []]}
        for number in range(800)
    ]
    uri = write(tmp_path / "rows.json", json.dumps(values))
    assert (tmp_path / "rows.json").stat().st_size > 2 * (8 << 20)
    rows = index_rows(uri)[""]
    assert len(rows) == 800
    assert rows.read(0, 800) == values
    assert rows.read(799, 800) == values[799:]
    assert rows.read(5, 5) == []
    assert [row for batch in rows.batches(300) for row in batch] == values


def test_the_arrays_of_an_object_are_found_by_their_keys(tmp_path: Path) -> None:
    content = {
        "info": {"rows": [[1], [2]]},
        'a "key"': [[1, [2]], [], {"b": [{}]}],
        "number": 3,
        "empty": [],
        "images": [{"file_name": name} for name in NASTY],
    }
    found = index_rows(write(tmp_path / "object.json", json.dumps(content, indent=1)))
    assert found["images"].read(0, len(NASTY)) == content["images"]
    assert len(found["empty"]) == 0
    assert "info" not in found


@pytest.mark.parametrize("text", ["", "[[1, 2], [3", '{"images": [{"a": "b', "[[1]]]", "<html></html>"])
def test_a_file_that_is_cut_short_or_no_json_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="fetch it again"):
        index_rows(write(tmp_path / "cut.json", text))


def test_a_row_that_is_no_json_is_none_and_leaves_the_others(tmp_path: Path) -> None:
    rows = index_rows(write(tmp_path / "rows.json", "[[1], [1,,2], [3]]"))[""]
    assert rows.read(0, 3) == [[1], None, [3]]
