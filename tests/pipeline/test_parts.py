from pathlib import Path

from pipeline.records import ANNOTATIONS, Counts, Unit
from pipeline.sinks.parts import committed, drop_orphans, part_uri, withdraw, write_part

NAME = "photos-0123456789abcdef-00000000-00000003"
UNIT = Unit(NAME, "images", "file:///photos", 0, 3, 10, "v1")


def write(output: Path, fingerprint: str = "f") -> None:
    metadata = {"unit_version": "v1", "fingerprint": fingerprint, "counts": Counts(samples=3).to_json()}
    for folder in ("annotations", "ledger"):
        write_part(part_uri(str(output), folder, NAME), ANNOTATIONS.empty_table(), metadata)
    (output / "meshes" / NAME).mkdir(parents=True)
    (output / "meshes" / NAME / "000000-left.ply").write_bytes(b"")
    (output / "meshes" / f"{NAME}.tar").write_bytes(b"")


def foreign(output: Path) -> set[Path]:
    """Puts files of somebody else where parts lie."""
    names = (
        "annotations/instances.json",
        "ledger/accounts.xlsx",
        "meshes/mine.ply",
        "annotations/train.parquet",
    )
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"mine")
    return {output / name for name in names}


def there(output: Path) -> set[Path]:
    return {path for path in output.rglob("*") if path.is_file()}


def test_parts_of_units_that_are_not_planned_go_and_other_peoples_files_stay(tmp_path: Path) -> None:
    kept = foreign(tmp_path)
    write(tmp_path)
    assert drop_orphans(str(tmp_path), [UNIT]) == 0
    assert len(there(tmp_path)) == len(kept) + 4
    assert drop_orphans(str(tmp_path), []) == 1
    assert there(tmp_path) == kept


def test_a_unit_that_is_done_anew_leaves_nothing_of_its_first_time(tmp_path: Path) -> None:
    kept = foreign(tmp_path)
    write(tmp_path)
    withdraw(str(tmp_path), [UNIT])
    assert there(tmp_path) == kept


def test_only_a_whole_part_of_this_job_and_this_content_counts_as_done(tmp_path: Path) -> None:
    write(tmp_path)
    assert committed(str(tmp_path), [UNIT], "f").keys() == {NAME}
    assert committed(str(tmp_path), [UNIT], "another") == {}
    changed = Unit(NAME, "images", "file:///photos", 0, 3, 10, "v2")
    assert committed(str(tmp_path), [changed], "f") == {}
    path = tmp_path / "annotations" / f"{NAME}.parquet"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], whole[:-200] + b"\xff" * 192 + whole[-8:]):
        path.write_bytes(damaged)
        assert committed(str(tmp_path), [UNIT], "f") == {}
