"""The README is true: its tables, its snippets and its commands are held to the code."""

import dataclasses
import re
from pathlib import Path

import pytest

from jobs.annotate import Options
from jobs.cli import COMMANDS
from pipeline.records import ANNOTATIONS


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def test_every_option_of_annotate_is_in_the_table_and_no_other(readme: str) -> None:
    documented = set(re.findall(r"^\| `--([a-z-]+)` \|", readme, re.M))
    assert documented == {field.name.replace("_", "-") for field in dataclasses.fields(Options)} - {"inputs"}


def test_every_column_is_in_the_table_and_no_other(readme: str) -> None:
    table = readme.split("| column | type | meaning |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(ANNOTATIONS.names)


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
