"""A bad record ends in the ledger with its reason, whatever it is, and costs nothing else."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config import preset
from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from model.weights import random_weights
from pipeline import boxes, local
from pipeline.annotation import Annotation
from pipeline.errors import ConfigError
from pipeline.flow import Workers
from pipeline.inputs import find_inputs
from pipeline.names import from_text, to_text
from pipeline.records import Counts
from pipeline.sinks.meshes import read_mesh
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input
from pipeline.units import settle
from tests.corpus.bad_inputs import BAD_INPUTS
from tests.corpus.bad_tables import BAD_TABLES, BadTable
from tests.corpus.case import GOOD, BadInput, Row
from tests.corpus.tables import parquet

pytestmark = pytest.mark.timeout(300)

WORKERS = Workers(task_cpus=1.0, actor_cpus=0.5, actor_gpus=0, actors=(1, 1), threads=1, device="cpu")
SIDES = {"given": None, "whole": "right"}
UNIT = r"[A-Za-z0-9-]{1,80}-[0-9a-f]{16}-\d{8}-\d{8}"
OURS = re.compile(
    rf"plan/\d{{6}}\.parquet|plan/keys/[\d-]+\.parquet|(ledger|annotations)/{UNIT}\.parquet"
    rf"|meshes/{UNIT}/\d{{6}}-(left|right)\.ply"
)


def folder_of(case: BadInput) -> str:
    return f"{BAD_INPUTS.index(case):03d}"


@dataclass(frozen=True)
class Job:
    """Many bad inputs, each in a folder of its own below `root`, and what one job wrote of them."""

    root: Path
    output: Path

    def table(self, folder: str) -> pa.Table:
        return pa.concat_tables(pq.read_table(path) for path in sorted((self.output / folder).iterdir()))

    def rows(self) -> Mapping[str, Sequence[Row]]:
        """Returns the ledger as the corpus states it, by the folder of the bad input."""
        found = defaultdict(list)
        for row in self.table("ledger").to_pylist():
            place = Path(unquote(row["source"].removeprefix("file://"))).relative_to(self.root)
            folder, key = (place.parts[0], row["key"]) if place.parts else row["key"].split("/", 1)
            kind = row["reason"].split(":")[0] if row["reason"] else None
            if row["frame_index"] is not None:
                # A film's key is its path below the root.
                key = key.removeprefix(f"{folder}/")
            said = (row["hand_index"], row["status"], row["stage"], kind, row["frame_index"])
            found[folder].append(Row(key, *said))
        return found


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.key or "", row.frame or 0, row.hand_index or 0, row.status))


def write(root: Path, cases: Iterable[BadInput]) -> None:
    for case in cases:
        (root / folder_of(case)).mkdir(parents=True)
        case.write(root / folder_of(case))


def probe(inputs: Iterable[Input]) -> list[Extent]:
    return [SOURCES[item.source].probe(item) for item in inputs]


def annotate(root: Path, output: Path, choice: str, cases: Iterable[BadInput]) -> Counts:
    """Annotates everything below a folder in this process; spoils what is to be spoiled before it is read."""
    job = Annotation(
        weights=random_weights(preset("tiny"), 0),
        hand_model=synthetic_hand(),
        boxes=boxes.choose(choice, SIDES[choice]),
        boxes_identity=choice,
        side=SIDES[choice],
        crop_rule=CROP_RULES["demo"],
        precision="fp32",
        meshes="ply",
        vertices=False,
        unit_rows=64,
    )
    inputs, _ = find_inputs([str(root)])
    settled = settle(str(output), inputs, unit_rows=64, crop_size=128, probe=probe)
    for case in cases:
        if case.spoil is not None:
            case.spoil(root / folder_of(case))
    records = local.run(job.flow(str(output), WORKERS, batch_size=16), settled.units)
    return sum((record.counts for record in records), Counts())


def names_below(folder: Path, *, but: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if but not in (path, *path.parents)}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Job]:
    """The whole corpus, annotated in this process: one job for each choice of boxes."""
    done = {}
    for choice in SIDES:
        around = tmp_path_factory.mktemp(choice)
        job = Job(around / "some" / "where" / "in", around / "some" / "where" / "out")
        cases = [case for case in BAD_INPUTS if case.boxes == choice]
        write(job.root, cases)
        before = names_below(around, but=job.output)
        total = annotate(job.root, job.output, choice, cases)
        assert names_below(around, but=job.output) <= before
        assert total.samples == (
            total.samples_with_hands + total.samples_without_hands + total.samples_rejected
        )
        assert total.hands == total.hands_annotated + total.hands_rejected
        assert total.hands_annotated == job.table("annotations").num_rows
        done[choice] = job
    return done


@pytest.fixture(scope="module")
def rows(jobs: Mapping[str, Job]) -> Mapping[str, Mapping[str, Sequence[Row]]]:
    return {choice: job.rows() for choice, job in jobs.items()}


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_each_kind_of_bad_input_has_its_rows_and_costs_nothing_else(
    rows: Mapping[str, Mapping[str, Sequence[Row]]], case: BadInput
) -> None:
    assert in_order(rows[case.boxes].get(folder_of(case), [])) == in_order(case.rows)


@pytest.mark.parametrize("choice", SIDES)
def test_whatever_inputs_are_called_their_names_choose_no_path(jobs: Mapping[str, Job], choice: str) -> None:
    output = jobs[choice].output
    written = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert [name for name in written if not OURS.fullmatch(name)] == []
    meshes = jobs[choice].table("annotations").column("mesh").to_pylist()
    assert {name for name in written if name.startswith("meshes/")} == set(meshes)
    for mesh in meshes:
        vertices, faces = read_mesh(str(output), mesh)
        assert vertices.shape == (778, 3)
        assert faces.shape == (1538, 3)
        assert (output / mesh).read_bytes().partition(b"end_header\n")[0].isascii()


@pytest.mark.parametrize("choice", SIDES)
@pytest.mark.parametrize("folder", ["ledger", "annotations"])
def test_two_readers_agree_on_every_name_and_number(
    jobs: Mapping[str, Job], choice: str, folder: str
) -> None:
    table = jobs[choice].table(folder)
    table.validate(full=True)
    columns = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    other = duckdb.sql(f"select {', '.join(columns)} from '{jobs[choice].output}/{folder}/*.parquet'")
    by_arrow = [tuple(row.values()) for row in table.select(columns).to_pylist()]
    assert sorted(map(repr, by_arrow)) == sorted(map(repr, other.fetchall()))
    if folder == "annotations":
        assert len(set(table.column("instance_id").to_pylist())) == table.num_rows
        for name in (
            "bbox",
            "joints",
            "joints_2d",
            "hand_pose",
            "betas",
            "confidence",
            "camera",
            "bbox_score",
        ):
            values = table.column(name).combine_chunks()
            while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
                values = values.flatten()
            assert np.isfinite(values.drop_null().to_numpy()).all(), name


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_lives_through_folders_shards_and_tables_at_once(
    tmp_path: Path, handocc: Callable[..., Any]
) -> None:
    cases = [case for case in BAD_INPUTS if case.boxes == "whole" and case.spoil is None]
    job = Job(tmp_path / "in", tmp_path / "out")
    write(job.root, cases)
    options = "--boxes whole --side right --model tiny --weights random:0 --meshes ply".split()
    done = handocc("annotate", job.root, "--output", job.output, *options)
    assert done.returncode == 1, done.stderr
    found = job.rows()
    wrong = [case.name for case in cases if in_order(found.get(folder_of(case), [])) != in_order(case.rows)]
    assert wrong == []


@pytest.mark.parametrize("table", BAD_TABLES, ids=lambda table: table.name)
def test_a_table_of_boxes_that_cannot_serve_stops_the_job(tmp_path: Path, table: BadTable) -> None:
    (tmp_path / table.file).write_bytes(table.data)
    with pytest.raises(ConfigError, match=table.says) as raised:
        boxes.choose(str(tmp_path / table.file), None)
    assert "\n" not in str(raised.value)
    assert table.file in str(raised.value)


def test_a_table_without_images_stops_the_job(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(parquet({"picture": [GOOD]}))
    inputs, _ = find_inputs([str(tmp_path / "t.parquet")])
    with pytest.raises(ConfigError, match="no column `image`; it has picture"):
        probe(inputs)


def test_what_changed_after_planning_is_planned_anew_by_the_same_command(tmp_path: Path) -> None:
    (case,) = (case for case in BAD_INPUTS if case.name == "tar: replaced after planning")
    write(tmp_path / "in", [case])
    total = annotate(tmp_path / "in", tmp_path / "out", "whole", [case])
    assert total.rejects == {"changed input": 3}
    total = annotate(tmp_path / "in", tmp_path / "out", "whole", [])
    assert (total.hands_annotated, total.rejects) == (3, {})
    keys = Job(tmp_path / "in", tmp_path / "out").table("annotations").column("key").to_pylist()
    assert keys == ["x", "y", "z"]


def test_names_become_text_and_no_two_become_the_same() -> None:
    names = [
        "a",
        "\udcff",
        "\\xff",
        "\\x5c",
        "\\x5cxff",
        "\\",
        "\\\udcff",
        "\\x41",
        "é",
        "\\xFF",
        "\udce4\\xe4",
    ]
    texts = [to_text(name) for name in names]
    assert len(set(texts)) == len(names)
    assert [from_text(text) for text in texts] == names
    assert all(text.encode() for text in texts)
    assert [to_text(name) for name in ("a/b c.jpg", "é", "C:\\x41")] == ["a/b c.jpg", "é", "C:\\x41"]
