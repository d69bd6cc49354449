"""The kinds of input, in one table: a new one is a file here and a line in `SOURCES`."""

from pipeline.sources import images, parquet, video, webdataset
from pipeline.sources.source import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        images.SOURCE,
        webdataset.SOURCE,
        parquet.SOURCE,
        video.SOURCE,
    )
}


def source_of(name: str) -> Source | None:
    """Returns the source that reads a file of this name, by its ending."""
    ending = "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""
    return next((source for source in SOURCES.values() if ending in source.endings), None)
