"""The ways to learn where hands are, in one table: a new one is a file here and a line in `choose`."""

from pipeline import storage
from pipeline.boxes.box_source import BoxSource
from pipeline.boxes.detect import DetectorOptions, load_detector
from pipeline.boxes.given import Given
from pipeline.boxes.table import Table, load, version_of
from pipeline.boxes.whole import Whole
from pipeline.errors import ConfigError

CHOICES = (
    "given (the input carries them), whole (the image is one hand), detect (they are looked for), "
    "or the URI of a table"
)


def choose(boxes: str, side: str | None, detector: DetectorOptions | None = None) -> BoxSource:
    """Returns the box source that an option names.

    Raises:
        ConfigError: `whole` without a side, an unknown name, a table that cannot be read, or no detector.
    """
    if boxes == "given":
        return Given(side)
    if boxes == "whole":
        if side is None:
            raise ConfigError(
                "--boxes whole needs --side right or --side left: the image does not say whose hand it is"
            )
        return Whole(side)
    if boxes == "detect":
        return load_detector(detector or DetectorOptions())
    if not boxes.lower().endswith((".parquet", ".csv", ".json")):
        raise ConfigError(f"--boxes {boxes}: must be {CHOICES} (.parquet, .csv or .json)")
    uri = storage.canonical(boxes)
    version = version_of(uri)
    if version is None:
        raise ConfigError(f"--boxes {uri}: there is no such file")
    load(uri, version)
    return Table(uri, version, side)
