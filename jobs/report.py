"""`handocc report`: pictures of an output."""

import sys
from dataclasses import dataclass

from jobs import exits, record
from jobs.options import option
from model.mano.synthetic import synthetic_hand
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.gallery import choose_rows, strips
from pipeline.render import png, sheet
from pipeline.sinks.parts import committed
from pipeline.units import load_plan

ROWS_PER_PAGE = 8


@dataclass(frozen=True)
class Options:
    """Draws hands of an output: the image, its joints, the mesh over it and from its side, and the truth if known."""

    output: str = option(help="an output of annotate", positional=True)
    count: int = option(24, help="how many hands to draw")


def run(options: Options) -> int:
    """Writes OUTPUT/report/gallery-NN.png and one picture per hand."""
    output = storage.canonical(options.output)
    job = record.of_annotate(output)
    if options.count < 1:
        raise ConfigError(f"--count {options.count}: must be at least 1")
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
    drawn = []
    for number, strip in enumerate(strips(output, units, rows, faces, word)):
        storage.put(storage.join(folder, "hands", f"{number:04d}.png"), png(sheet([strip.tiles], tile=384)))
        drawn.append(strip.tiles)
    for page, start in enumerate(range(0, len(drawn), ROWS_PER_PAGE)):
        picture = sheet(drawn[start : start + ROWS_PER_PAGE])
        uri = storage.join(folder, f"gallery-{page:02d}.png")
        storage.put(uri, png(picture))
        print(f"{min(ROWS_PER_PAGE, len(drawn) - start)} hands: {uri}")
    return exits.DONE


if __name__ == "__main__":
    from jobs.cli import command

    command(["report", *sys.argv[1:]])
