"""Runs units through a flow on Ray while a person watches, and sums up what came of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.cluster import Resources, connect, go_on
from jobs.progress import progress
from pipeline import ray_data
from pipeline.flow import Flow
from pipeline.records import Counts, Unit


@dataclass(frozen=True)
class Outcome:
    """What one run did: finished units, their counts, and the seconds that each stage worked on them."""

    units: int = 0
    counts: Counts = field(default_factory=Counts)
    seconds: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False


def carry_out(
    flow_for: Callable[[Resources], Flow],
    units: Sequence[Unit],
    *,
    address: str | None,
    stop: Callable[[Counts], bool] = lambda _: False,
) -> Outcome:
    """Runs the units on the cluster at an address, unless there are none; `stop` may end the run early.

    Raises:
        ConfigError: the cluster does not answer, or is too small for the flow.
        Interrupted: storage gave out in the middle.
    """
    if not units:
        return Outcome()
    finished, counts, seconds, stopped = 0, Counts(), dict[str, float](), False
    with connect(address) as resources:
        flow = flow_for(resources)
        flow.check(resources.cpus, resources.gpus)
        with progress(len(units)) as show:
            for done in ray_data.run(flow, units):
                go_on()
                show(done)
                finished += 1
                counts += done.counts
                for name, spent in done.seconds.items():
                    seconds[name] = seconds.get(name, 0.0) + spent
                if stopped := stop(counts):
                    break
    return Outcome(finished, counts, seconds, stopped)


def summary(total: Counts, outcome: Outcome, elapsed_s: float, remarks: Sequence[str]) -> dict[str, Any]:
    """Returns what summary.json holds: the sums over the whole output, and how fast this run was."""
    assert total.samples == total.samples_with_hands + total.samples_without_hands + total.samples_rejected
    assert total.hands == total.hands_annotated + total.hands_rejected
    return {
        "counts": asdict(total),
        "this_run": {
            "units": outcome.units,
            "samples": outcome.counts.samples,
            "hands": outcome.counts.hands_annotated,
            "seconds": round(elapsed_s, 3),
            "seconds_per_stage": {name: round(spent, 3) for name, spent in outcome.seconds.items()},
            "images_per_second": round(outcome.counts.samples / elapsed_s, 3),
        },
        "remarks": list(remarks),
    }


def show(output: str, about: Mapping[str, Any], unfinished: int) -> None:
    """Prints the closing lines: counts, rejects by reason, speed, and where the results are."""
    counts, this_run = about["counts"], about["this_run"]
    print(f"{counts['samples']} images: {counts['samples_with_hands']} with hands, ", end="")
    print(f"{counts['samples_without_hands']} without, {counts['samples_rejected']} rejected")
    print(f"{counts['hands']} hands asked for: {counts['hands_annotated']} annotated, ", end="")
    print(f"{counts['hands_rejected']} rejected")
    for kind, number in sorted(counts["rejects"].items(), key=lambda item: -item[1]):
        print(f"  rejected  {number:6d}  {kind}")
    if this_run["units"]:
        stages = ", ".join(f"{name} {spent:.1f} s" for name, spent in this_run["seconds_per_stage"].items())
        print(
            f"this run: {this_run['units']} units, {this_run['samples']} images in {this_run['seconds']:.1f} s, "
        )
        print(f"  {this_run['images_per_second']:.1f} images/s with start-up; work per stage: {stages}")
    else:
        print("nothing was left to do")
    print(f"results: {output}" + (f" ({unfinished} units of the plan are left)" if unfinished else ""))
