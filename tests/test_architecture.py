"""Imports point down, and a few libraries stand in a few rooms only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = ("model", "pipeline", "jobs")
# Which files may import a library that would otherwise spread.
ROOMS = {
    "ray": ("pipeline/ray_data.py", "jobs/cluster.py", "jobs/train.py", "jobs/training/"),
    "fsspec": ("pipeline/stores/",),
    "s3fs": ("pipeline/stores/",),
    "botocore": ("pipeline/stores/",),
    "yaml": ("jobs/options.py", "pipeline/datasets/dexycb.py"),
    "argparse": ("jobs/options.py",),
    "smplx": ("model/mano/",),
    "rich": ("jobs/progress.py",),
}


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def violations(root: Path) -> list[str]:
    found = []
    for floor, name in enumerate(FLOORS):
        for path in sorted((root / name).rglob("*.py")):
            place = path.relative_to(root).as_posix()
            for module in imports(path.read_text()):
                top = module.split(".")[0]
                if top in FLOORS[floor + 1 :]:
                    found.append(f"{place} imports {module}, which is above it")
                if top in ROOMS and not place.startswith(ROOMS[top]):
                    found.append(f"{place} imports {top}, which stands in {', '.join(ROOMS[top])}")
    return found


def test_the_house_stands_as_drawn(repository: Path) -> None:
    assert violations(repository) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("model/crop.py", "import ray"),
        ("model/predictor.py", "from pipeline.records import Unit"),
        ("pipeline/flow.py", "from jobs.options import option"),
        ("pipeline/units.py", "import fsspec"),
        ("jobs/annotate.py", "import yaml"),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path: Path, place: str, line: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(f"def late():\n    {line}\n")
    assert len(violations(tmp_path)) == 1
