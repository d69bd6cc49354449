"""The annotations that pseudo-labels are chosen from: stored ones, or those that are made on the way."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs import annotate, exits, planning, record
from jobs.model_choice import choose_model
from jobs.pseudo_labels.request import NOT_STATED, PREDICTIONS, Options, how_to_annotate, settings
from pipeline import storage
from pipeline.calibration import CALIBRATED
from pipeline.errors import ConfigError
from pipeline.records import Unit
from pipeline.sinks.parts import Part, committed, read_metadata
from pipeline.units import load_plan


@dataclass(frozen=True)
class Annotated:
    """The annotations that are chosen from; conventions: what their parts say of themselves."""

    uri: str
    job: Mapping[str, Any]
    units: tuple[Unit, ...]
    parts: Mapping[str, Part]
    conventions: Mapping[str, str]
    status: int = exits.DONE

    @property
    def confidence(self) -> str:
        """Says what the hands' confidence means."""
        return self.conventions.get("confidence", NOT_STATED)

    def require_expected_error(self) -> None:
        """Refuses hands that have no expected error.

        Raises:
            ConfigError: the weights that annotated them are not calibrated.
        """
        if self.units and not self.confidence.startswith(CALIBRATED):
            raise ConfigError(
                f"--max-expected-error: the hands of {self.uri} have no expected error, since the weights that "
                "annotated them are not calibrated; `handocc calibrate` first"
            )


def annotations(options: Options, output: str) -> Annotated:
    """Returns the annotations, after making what is lacking of them."""
    uri, status = storage.canonical(options.predictions or storage.join(output, PREDICTIONS)), exits.DONE
    if options.predictions is None:
        status = annotate.run(how_to_annotate(options, output))
    job = record.of_annotate(uri)
    planning.require_finished(uri)
    planned = load_plan(uri)
    parts = committed(uri, planned, job["fingerprint"])
    # Of its own annotations those of the inputs that are named now, of others' all that are there.
    units = record.asked_for(job, planned, parts if options.predictions else ())
    there = tuple(unit for unit in units if unit.unit_id in parts)
    if len(there) < len(units) and options.limit is None and status != exits.STOPPED:
        left = {unit.input for unit in units if unit.unit_id not in parts}
        raise ConfigError(
            f"{uri}: {len(units) - len(there)} of {len(units)} units are not annotated yet; "
            f"{record.way_to_the_end(job, left)}"
        )
    said = read_metadata(uri, "annotations", parts[there[0].unit_id].file) if there else {}
    return Annotated(uri, job, there, parts, {**job["conventions"], **said}, status)


def require_weights_of_expected_error(options: Options, output: str) -> None:
    """Refuses, before anything is annotated, weights that say no expected error of such boxes."""
    how = how_to_annotate(options, output)
    job = annotate.annotation(how, choose_model(how.model, how.weights, how.mano))
    if job.calibration is None:
        raise ConfigError(
            "--max-expected-error: the weights are not calibrated for such boxes, so that hands have no expected "
            "error; `handocc calibrate` first"
        )


def content_of(options: Options, annotated: Annotated) -> dict[str, Any]:
    """What decides what is in the shards."""
    # A unit that was annotated anew has other hands.
    units = [
        f"{unit.unit_id} {unit.version} {annotated.parts[unit.unit_id].counts.to_json()}"
        for unit in annotated.units
    ]
    return {
        **settings(options),
        "predictions_fingerprint": annotated.job["fingerprint"],
        "annotations": f"{len(units)} units, {hashlib.sha256(chr(10).join(units).encode()).hexdigest()[:16]}",
    }
