"""The README is true: its tables, its snippets and its commands are held to the code."""

import dataclasses
import re
from pathlib import Path

import pytest

from jobs.annotate import Options
from jobs.cli import COMMANDS
from pipeline.evaluation.errors import ABOUT
from pipeline.pseudo_labels.shards import ACCOUNT
from pipeline.records import ANNOTATIONS, LEDGER
from pipeline.synthesis.films import TRUTH
from pipeline.tracking.tracks import TRACKS


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def columns_of(text: str) -> list[set[str]]:
    """The names in the first column of every table of columns."""
    tables = [after.split("\n\n")[0] for after in text.split("| column | type | meaning |")[1:]]
    cells = [[line.split("|")[1] for line in table.splitlines()[2:]] for table in tables]
    return [{name for cell in rows for name in re.findall(r"`(\w+)`", cell)} for rows in cells]


def test_every_option_of_annotate_is_in_the_table_and_no_other(readme: str) -> None:
    documented = set(re.findall(r"^\| `--([a-z-]+)` \|", readme, re.M))
    assert documented == {field.name.replace("_", "-") for field in dataclasses.fields(Options)} - {"inputs"}


def test_every_column_is_in_the_table_and_no_other(readme: str) -> None:
    (table,) = columns_of(readme)
    assert table == set(ANNOTATIONS.names)


def test_every_column_of_the_other_outputs_is_in_its_table_and_no_other(repository: Path) -> None:
    ledger, tracks, errors, truth, manifest = columns_of((repository / "docs/outputs.md").read_text())
    assert ledger == set(LEDGER.names)
    assert tracks == set(TRACKS.names)
    assert errors - {"failed", "mpjpe_mm", "auc"} == set(ABOUT.names)
    assert truth == set(TRUTH.names)
    assert manifest == set(ACCOUNT.names) - {"dropped"}


def test_the_tree_and_the_commands_are_those_of_the_repository(readme: str, repository: Path) -> None:
    tree = re.findall(r"^(\w+)/ {2,}\S", readme, re.M)
    assert [name for name in tree if not (repository / name).is_dir()] == []
    named = re.search(r"jobs/ +what a person starts: (.*)\.$", readme, re.M)
    assert named is not None
    assert set(named.group(1).split(", ")) == set(COMMANDS)
    targets = re.findall(r"^make ([a-z-]+)", readme, re.M)
    makefile = (repository / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(f"\n{target}: " in makefile for target in targets)


def test_every_picture_is_there(readme: str, repository: Path) -> None:
    assert all((repository / path).is_file() for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme))


@pytest.mark.ray
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_snippets_read_an_output(
    readme: str, annotated: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    snippets = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert len(snippets) == 3
    monkeypatch.chdir(annotated.parent)
    names: dict[str, object] = {}
    exec(snippets[number].replace("OUTPUT", annotated.name), names)
    if number == 2:
        assert names["joints"].shape[1:] == (21, 3)  # type: ignore[attr-defined]
