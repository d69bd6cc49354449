"""What a person reads of an evaluation: the tables with our rows in them, headline numbers, and what limits them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.evaluation.errors import MEASURED, MISSING, NO_TRUTH, REJECTED, UNLABELLED
from pipeline.evaluation.measurement import BASELINE
from pipeline.evaluation.submissions import FORMATS, Submission
from pipeline.evaluation.summary import Summary
from pipeline.evaluation.tables import ABLATIONS, TABLES, Table, to_text, with_row
from pipeline.metrics import PROTOCOLS

# The root is the wrist, but for FreiHAND: `Protocol.root`.
_HEADLINE: Final = (
    ("mpjpe_mm", "joints, root on root", "mm"),
    ("pa_mpjpe_mm", "joints after Procrustes alignment", "mm"),
    ("mpvpe_mm", "vertices, root on root", "mm"),
    ("pa_mpvpe_mm", "vertices after Procrustes alignment", "mm"),
    ("pa_f5", "F@5 after Procrustes alignment", ""),
    ("pa_f15", "F@15 after Procrustes alignment", ""),
)
_PLACEMENT: Final = (
    ("translation_error_mm", "wrist in camera space, median"),
    ("depth_error_mm", "its depth, median"),
    ("depth_error_percent", "share of the depth, median"),
)
_MARKS: Final = (
    "Rows of `paper` are those of J. Park et al., HandOccNet, CVPR 2022, copied from its tables; rows of `this run` "
    "were measured here."
)


@dataclass(frozen=True)
class Measured:
    """Whose predictions were measured.

    method: the name of their row. trained: whether the network was. crop: which boxes and crop rule they were made
    with, where those are not the benchmark's own.
    """

    dataset: str
    method: str
    hand_model: str
    trained: bool
    crop: str | None = None


def filled_tables(measured: Measured, summary: Summary) -> list[Table]:
    """Returns the benchmark's tables, the comparisons before the ablations, with the rows of this run."""
    means = {name: row.mean for name, row in summary.means().items()}
    filled = []
    for table in (*TABLES[measured.dataset], *ABLATIONS.get(measured.dataset, ())):
        if any(name.startswith(BASELINE) for name in means):
            table = with_row(table, "the hand at rest", means, BASELINE)
        filled.append(with_row(table, measured.method, means))
    return filled


def headlines(summary: Summary) -> list[str]:
    """Returns a line per headline metric: the mean over hands and its 95 % interval."""
    counts = summary.counts
    lines = [
        f"{summary.evaluated} hands with a truth: {counts[MEASURED]} measured, {counts[MISSING]} without a prediction"
    ]
    if counts[NO_TRUTH] or counts[REJECTED]:
        lines.append(
            f"beside them {counts[NO_TRUTH]} without a truth, {counts[REJECTED]} whose labels cannot be used"
        )
    lines += [
        f"  {kind} ({number})"
        for kind, number in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0]))
    ]
    if counts[UNLABELLED]:
        lines.append(f"{counts[UNLABELLED]} annotated hands lie where no labelled one does")
    means, medians = summary.means(), summary.medians()
    for name, what, unit in _HEADLINE:
        if name not in means or math.isnan(means[name].mean):
            continue
        row, digits = means[name], 2 if unit else 3
        interval = "" if math.isnan(row.low) else f"  [{row.low:.{digits}f}, {row.high:.{digits}f}]"
        lines.append(f"{what:<36} {row.mean:8.{digits}f} {unit:<2}{interval}")
    if halves := summary.halves():
        lower, known = halves["best_half_is_lower_by"], halves["perfect_half_mm"]
        lines.append(
            f"{'joints after alignment, surer half':<36} {halves['best_half_mm']:8.2f} mm  {-lower:+.1%}; "
            f"{known:.2f} mm if errors were known"
        )
    for name, what in _PLACEMENT:
        if name in medians:
            lines.append(f"{what:<36} {medians[name]:8.2f} {'%' if name.endswith('percent') else 'mm'}")
    return lines


def remarks(measured: Measured, summary: Summary) -> list[str]:
    """Returns what somebody who takes the numbers further has to know."""
    found = []
    if not measured.trained:
        found.append("the network is untrained: its numbers mean nothing")
    if summary.counts[MISSING]:
        found.append(
            f"{summary.counts[MISSING]} hands have no prediction: distances are means over the others, AUC and "
            "F-scores count them as 0"
        )
    if summary.other_side:
        mirrored = PROTOCOLS[measured.dataset].reflections
        found.append(
            f"{summary.other_side} hands were taken for hands of the other side, which "
            + ("errors after alignment do not show: it may mirror" if mirrored else "alignment cannot mend")
        )
    strangers = {name: n for name, n in summary.datasets.items() if name != measured.dataset}
    if strangers and measured.dataset != "shards":
        named = ", ".join(f"{number} of {name}" for name, number in sorted(strangers.items()))
        found.append(
            f"the labels are {named}, measured as {measured.dataset} is: not comparable with the paper"
        )
    if measured.dataset != "shards" and summary.splits:
        splits = ", ".join(sorted(summary.splits))
        tested = all(name.endswith(("test", "evaluation")) for name in summary.splits)
        found.append(
            f"split: {splits}" + ("" if tested else ", which is not for tests: not comparable with the paper")
        )
    if measured.crop is not None:
        found.append(
            f"the hands were annotated with {measured.crop}, which is not how {measured.dataset} is evaluated: not "
            "comparable with the paper; `evaluate --weights` cuts them as the authors do"
        )
    if measured.hand_model.startswith("synthetic") and measured.dataset != "shards":
        found.append(
            f"the predictions' hand model is the procedural hand {measured.hand_model}, not MANO: not comparable with "
            "the paper"
        )
    for name, number in sorted(summary.other_hand_models.items()):
        found.append(
            f"{number} meshes belong to hand model {name[:20]}, the predictions' to {measured.hand_model[:20]}: of "
            "those hands only the joints are compared"
        )
    if summary.other_fingertips:
        found.append(
            f"the finger tips of {summary.other_fingertips} labelled hands are other vertices than the predictions', "
            "which alone makes some millimetres at the tips; the authors' evaluation has that as well"
        )
    return found


def submission_remarks(dataset: str, submission: Submission) -> list[str]:
    """Returns what is special about a submission."""
    found = []
    wanted = FORMATS[dataset].pictures
    if wanted is not None and submission.pictures != wanted:
        found.append(
            f"the submission holds {submission.pictures} pictures, {dataset}'s test split has {wanted}: its server "
            "takes only all of them"
        )
    if submission.empty:
        found.append(
            f"{submission.empty} pictures of the submission have no prediction: a point stands for the hand"
        )
    if submission.unplaced:
        found.append(
            f"{submission.unplaced} hands of the submission stand with their wrist at the origin: nothing says where "
            "in camera space they are"
        )
    return found


def table_file(tables: Sequence[Table], lines: Sequence[str], notes: Sequence[str]) -> str:
    """Returns what table.md holds."""
    listed = "\n".join(f"- {note}" for note in notes)
    blocks = [*map(to_text, tables), _MARKS, "```\n" + "\n".join(lines) + "\n```", listed]
    return "\n\n".join(block for block in blocks if block) + "\n"
