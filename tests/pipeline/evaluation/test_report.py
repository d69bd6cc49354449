"""The tables that a person compares by."""

import torch

from pipeline.evaluation.report import Measured, filled_tables, headlines, remarks, table_file
from pipeline.evaluation.summary import Summary
from pipeline.evaluation.tables import to_text


def summary() -> Summary:
    made = Summary()
    errors = {
        "mpjpe_mm": torch.tensor([20.0, 30.0]),
        "pa_mpjpe_mm": torch.tensor([9.0, 9.5]),
        "pa_mpvpe_mm": torch.tensor([8.0, float("nan")]),
        "pa_f5": torch.tensor([0.5, 0.6]),
        "baseline_pa_mpjpe_mm": torch.tensor([15.0, 17.0]),
    }
    made.overall.add(errors, resampled_by=["a", "b"])
    made.counts["measured"] = 2
    return made


def test_our_rows_stand_below_the_papers_and_say_whose_they_are() -> None:
    tables = filled_tables(Measured("ho3d-v2", "ours", "hand", True), summary())
    names = ["Table 5", "Table S1", "Table 1", "Table 2", "Table 3", "Table 4"]
    assert [table.name for table in tables] == names
    lines = to_text(tables[0]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[-3:] == [
        ["HandOccNet", "paper", "9.1", "8.8", "56.4", "96.3"],
        ["the hand at rest", "this run", "16.0", "", "", ""],
        # F-scores stand in per cent, as the paper has them; what was not measured is empty.
        ["ours", "this run", "9.2", "8.0", "55.0", ""],
    ]
    assert len({len(line) for line in lines[2:]}) == 1
    assert to_text(tables[1]).splitlines()[-1].split("|")[3].strip() == "25.0"
    text = table_file(tables, headlines(summary()), ["a note"])
    assert "- a note" in text
    assert "2 hands with a truth" in text
    # Which joint the root is, the benchmarks do not agree upon.
    assert "joints, root on root" in text


def test_hands_of_the_other_side_are_remarked_on() -> None:
    made = summary()
    made.other_side = 3
    (said,) = remarks(Measured("shards", "ours", "hand", True), made)
    assert said == "3 hands were taken for hands of the other side, which alignment cannot mend"
    assert "it may mirror" in remarks(Measured("ho3d-v2", "ours", "hand", True), made)[0]


def test_what_cannot_be_compared_with_the_paper_is_said() -> None:
    made = summary()
    made.splits["s0_test"] = 2
    assert remarks(Measured("dexycb", "ours", "hand", True), made) == ["split: s0_test"]
    made.splits["s0_train"] = 1
    split, crop = remarks(Measured("dexycb", "ours", "hand", True, crop="--boxes given"), made)
    assert split == "split: s0_test, s0_train, which is not for tests: not comparable with the paper"
    assert crop.startswith(
        "the hands were annotated with --boxes given, which is not how dexycb is evaluated"
    )
