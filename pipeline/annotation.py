"""The job of annotating, as one value: what it writes, what identifies it, and its stages."""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.crop import CropRule
from model.mano.anatomy import anatomy_of
from model.mano.asset import HandModel
from model.mano.joints import JOINT_NAMES
from model.predictor import Precision
from model.weights import LoadedWeights
from pipeline.boxes.box_source import BoxSource
from pipeline.calibration import GIVEN, Calibration, choose, origin_of
from pipeline.fingerprint import fingerprint_of
from pipeline.flow import Flow, Stage, Workers, as_it_is
from pipeline.intrinsics import CameraRule
from pipeline.records import SCHEMA_VERSION
from pipeline.sources.sampling import Sampling
from pipeline.stages.decode_and_crop import DecodeAndCrop
from pipeline.stages.infer import make_infer
from pipeline.stages.place import Place
from pipeline.stages.score import Score
from pipeline.stages.write import Write

# Writing waits for storage most of the time. It must find room while decoding fills the machine, or nothing is
# committed until all is decoded: actors claim fractions that leave some (`pipeline.flow.spread`). What is cheap
# besides claims the same, so that Ray makes one task of it and writing.
WRITE_CPUS = 0.01
UNCALIBRATED = "heatmap peak mass, uncalibrated"


@dataclass(frozen=True)
class Annotation:
    """Everything that decides what an annotation job writes.

    boxes: finds the hands; boxes_identity: what tells it from another one (a table's URI and version).
    meshes: none, ply or tar. unit_rows: samples per unit, None for the default rule.
    sampling: which frames of films are taken. cameras: which camera a hand is seen by.
    tta: the network looks at every crop again, for quality columns.

    Raises:
        ConfigError: the weights carry a calibration that was not learnt with them.
    """

    weights: LoadedWeights
    hand_model: HandModel
    boxes: BoxSource
    boxes_identity: str
    side: str | None
    crop_rule: CropRule
    precision: Precision
    meshes: str
    vertices: bool
    unit_rows: int | None
    sampling: Sampling = Sampling()
    cameras: CameraRule = CameraRule()
    tta: bool = False

    def __post_init__(self) -> None:
        if self.calibration is not None:
            self.calibration.require_for(
                tensors_sha256=self.weights.tensors_sha256,
                model=self.weights.config.name,
                hand_model=self.hand_model.name,
            )

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """What the weights carry for such boxes, if they do."""
        return choose(self.weights.calibration or {}, origin_of(self.boxes_identity))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know of how hands are annotated."""
        found, origin = self.cameras.remarks, origin_of(self.boxes_identity)
        if self.calibration is not None and self.calibration.boxes != origin:
            found += (
                "what a confidence is worth was learnt in given boxes, these are found; `handocc calibrate` learns it "
                "from annotations with --boxes detect",
            )
        elif self.calibration is not None and origin == GIVEN != self.boxes_identity:
            found += (
                "what a confidence is worth was learnt in boxes that labelled shards give; nothing is known of what it "
                "is worth in others",
            )
        elif self.calibration is None and self.weights.calibration:
            found += ("what the weights say of confidences is for found boxes: here they are not calibrated",)
        elif self.calibration is not None and self.calibration.crop_rule != self.crop_rule.describe():
            found += (
                f"what a confidence is worth was learnt in crops of another kind ({self.calibration.crop_rule}; these "
                f"are {self.crop_rule.describe()}); `handocc calibrate` learns it from annotations with such crops",
            )
        return found

    @property
    def content(self) -> dict[str, Any]:
        """The settings that decide what is written, as plain values: what the fingerprint digests."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.weights.config.to_dict(),
            "weights_sha256": self.weights.sha256,
            "hand_model": self.hand_model.name,
            "boxes": self.boxes_identity,
            "side": self.side,
            "crop_rule": asdict(self.crop_rule),
            "camera": self.cameras.identity,
            "precision": self.precision,
            "unit_rows": self.unit_rows,
            **asdict(self.sampling),
            "tta": self.tta,
            "meshes": self.meshes,
            "vertices": self.vertices,
        }

    @property
    def fingerprint(self) -> str:
        """A digest of `content`: parts of another one count as not done."""
        return fingerprint_of(self.content)

    @property
    def metadata(self) -> dict[str, str]:
        """What every part says of itself; the unit's own entries are added when it is written."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.weights.config.name,
            "weights_sha256": self.weights.sha256,
            "weights_tensors_sha256": self.weights.tensors_sha256,
            "weights_trained": "yes" if self.weights.trained else "no",
            "weights_trained_on": self.weights.notes.get("trained on", "not stated"),
            "hand_model": self.hand_model.name,
            "left_model": "mirrored_right",
            "flat_hand_mean": "True",
            "joint_order": ",".join(JOINT_NAMES),
            "fingertip_vertices": ",".join(map(str, self.hand_model.fingertip_vertices)),
            "crop_rule": self.crop_rule.describe(),
            "units": "metres, radians, pixels",
            "axes": "x right, y down, z away; wrist at the origin; pixel centres at integers",
            "camera": self.cameras.identity,
            "confidence": UNCALIBRATED if self.calibration is None else self.calibration.describe(self.tta),
            "fingerprint": self.fingerprint,
        }

    def flow(self, output: str, workers: Workers, batch_size: int) -> Flow:
        """Returns the stages; `output` also holds the plan, with the keys of each unit's samples.

        The claims of neighbours differ where work must go on side by side: Ray would fuse stages that claim the
        same, and decoding would then wait for inference.
        """
        right = self.hand_model.faces
        crop = DecodeAndCrop(output, self.boxes, self.crop_rule, self.weights.config.input_size, self.cameras)
        infer = functools.partial(
            make_infer,
            self.weights,
            self.hand_model,
            device=workers.device,
            precision=self.precision,
            batch_size=batch_size,
            threads=workers.threads,
            tta=self.tta,
        )
        curve = None if self.calibration is None else self.calibration.curve(self.tta)
        score = Score(anatomy_of(self.hand_model), curve)
        write = Write(
            output,
            meshes=self.meshes,
            vertices=self.vertices,
            metadata=self.metadata,
            faces={"right": right, "left": np.ascontiguousarray(right[:, ::-1])},
        )
        return Flow(
            "annotate",
            (
                Stage("decode_and_crop", functools.partial(as_it_is, crop), cpus=workers.task_cpus),
                Stage(
                    "infer", infer, cpus=workers.actor_cpus, gpus=workers.actor_gpus, actors=workers.actors
                ),
                Stage("place", functools.partial(as_it_is, Place()), cpus=WRITE_CPUS),
                Stage("score", functools.partial(as_it_is, score), cpus=WRITE_CPUS),
                Stage("write", functools.partial(as_it_is, write), cpus=WRITE_CPUS),
            ),
        )
