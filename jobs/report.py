"""`handocc report`: pictures of an output."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import exits, record
from jobs.model_choice import weights_as
from jobs.options import option, require_least
from model.config import config_from_dict
from model.crop import CropRule
from model.mano.synthetic import synthetic_hand
from model.weights import LoadedWeights
from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.gallery import choose_rows, image_of, rows_with_samples, strip
from pipeline.inside import inside
from pipeline.records import Sample
from pipeline.render import Tile, png, sheet
from pipeline.sinks.parts import committed
from pipeline.stages.decode_and_crop import cut_out
from pipeline.units import load_plan

ROWS_PER_PAGE = 8

_DRAWN = re.compile(r"(gallery|maps)-\d+\.png|hands/\d+\.png")

Rows = Sequence[Sequence[Tile]]  # of pictures, of one hand


@dataclass(frozen=True)
class Options:
    """Draws hands of an output: the image, its joints, its mesh over it and from its side, and the truth, if known."""

    output: str = option(help="an output of annotate", positional=True)
    count: int = option(24, help="how many hands to draw")
    weights: str | None = option(
        None,
        help="those that annotated it: draws what happens inside the network too (the paper's Figures 4 and 7)",
    )


def run(options: Options) -> int:
    """Writes OUTPUT/report/gallery-NN.png and one picture per hand; with --weights maps-NN.png too."""
    output = storage.canonical(options.output)
    job = record.of_annotate(output)
    require_least(options, "count")
    weights = None if options.weights is None else _same_weights(options.weights, job)
    units = {unit.unit_id: unit for unit in load_plan(output)}
    rows = choose_rows(
        output, units, committed(output, list(units.values()), job["fingerprint"]), options.count
    )
    if not rows.num_rows:
        print(f"{output} holds no annotated hands")
        return exits.DONE
    hand = synthetic_hand()
    faces = hand.faces if job["hand_model"] == hand.name else None
    word = None if job["weights"]["trained"] else "UNTRAINED"
    folder = storage.join(output, "report")
    for file in list(storage.list_files(folder)):
        if _DRAWN.fullmatch(storage.key_below(folder, file.uri)):
            storage.delete(file.uri)
    drawn, maps = list[Rows](), list[Rows]()
    for number, (row, sample) in enumerate(rows_with_samples(output, units, rows)):
        tiles = strip(output, row, sample, faces, word).tiles
        storage.put(storage.join(folder, "hands", f"{number:04d}.png"), png(sheet([tiles], tile=384)))
        drawn.append([tiles])
        if weights is not None:
            maps.append(_inside(weights, row, sample, CropRule(**job["content"]["crop_rule"])))
    _put_pages(folder, "gallery", drawn)
    _put_pages(folder, "maps", maps)
    return exits.DONE


def _put_pages(folder: str, name: str, hands: Sequence[Rows]) -> None:
    each = ROWS_PER_PAGE // max([1, *(len(rows) for rows in hands)])
    for page, start in enumerate(range(0, len(hands), each)):
        shown = hands[start : start + each]
        uri = storage.join(folder, f"{name}-{page:02d}.png")
        storage.put(uri, png(sheet([row for rows in shown for row in rows])))
        print(f"{len(shown)} hands: {uri}")


def _same_weights(uri: str, job: Mapping[str, Any]) -> LoadedWeights:
    """Returns the weights of a URI, which must be those of the job."""
    weights = weights_as(uri, config_from_dict(job["content"]["model"]))
    used = job["weights"]["sha256"]
    if weights.sha256 != used:
        raise ConfigError(f"--weights {uri}: not those that annotated this output, whose sha256 is {used}")
    return weights


def _inside(weights: LoadedWeights, row: Mapping[str, Any], sample: Sample, rule: CropRule) -> Rows:
    """Returns the maps of a hand; none where its input has changed since, which the gallery says."""
    try:
        crop, _ = cut_out(image_of(sample), row["bbox"], row["side"], rule, weights.config.input_size)
    except DataError:
        return ()
    return inside(weights.network, crop)


if __name__ == "__main__":
    from jobs.cli import command

    command(["report", *sys.argv[1:]])
