"""`handocc ablate`: one of the paper's Tables 1-4, a training run per row, printed beside the paper's rows."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from jobs import exits
from jobs.console import say
from jobs.options import from_file, option
from jobs.train import Options as Train
from model.config import ABLATION_TABLES, ABLATIONS, ModelConfig, ablation_configs
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.evaluation.tables import TABLE_1, TABLE_2, TABLE_3, TABLE_4, Table, to_text, with_row

OPTION_OF = {table: name for name, table in ABLATION_TABLES.items()}
TABLES: dict[str, Table] = {"1": TABLE_1, "2": TABLE_2, "3": TABLE_3, "4": TABLE_4}


@dataclass(frozen=True)
class Options:
    """Trains every row of a table of the paper on the same data with the same budget, and prints the table.

    A network that several tables name is trained once.
    """

    shards: tuple[str, ...] = option(help="training shards, as for `handocc train`", positional=True)
    validation: tuple[str, ...] = option(help="shards that every row is measured on")
    output: str = option(help="folder or URI; each row's run lies below it, and continues when called again")
    table: str = option(
        help="1 (between backbone and regressor), 2 (FIT's attention), 3 (FIT's residual), 4 (SET)"
    )
    train: str | None = option(None, help="FILE.yaml with options of `handocc train` that all rows share")
    at_once: int = option(1, help="how many rows train at the same time, on a cluster that has room for them")
    address: str | None = option(None, help="a Ray cluster; default: this machine, one row after the other")


def run(options: Options) -> int:
    """Trains what is not trained yet, and prints the table."""
    if options.table not in TABLES:
        raise ConfigError(f"--table {options.table}: must be one of {', '.join(TABLES)}")
    if options.at_once < 1 or (options.at_once > 1 and options.address is None):
        raise ConfigError("--at-once needs --address: rows would take each other's processors on one machine")
    output = storage.canonical(options.output)
    shared = {} if options.train is None else from_file(options.train, Train)
    first = first_of_equals(shared.get("model", Train.model))
    rows = [first[row] for row in ABLATIONS if row.startswith(f"table{options.table}/")]
    with ThreadPoolExecutor(options.at_once) as pool:
        statuses = list(pool.map(lambda row: _train(options, output, row), rows))
    failed = [_as_option(row) for row, status in zip(rows, statuses, strict=True) if status != exits.DONE]
    if failed:
        say(f"not trained to the end: {', '.join(failed)}; the same command continues")
        # A row that a signal ended has a negative one.
        return max(exits.INTERRUPTED if status < 0 else status for status in statuses)
    table = TABLES[options.table]
    for of_paper, row in zip(table.rows, rows, strict=True):
        table = with_row(table, of_paper.method, _measured(_place(output, row)))
    text = to_text(table)
    storage.put(storage.join(output, f"table{options.table}.md"), (text + "\n").encode())
    print(text)
    print("the paper's rows are HO-3D after full training: compare rows of this run with each other only")
    return exits.DONE


def first_of_equals(model: str) -> dict[str, str]:
    """Returns for every row of the tables the first one that is the same network."""
    configs = {row: _unnamed(config) for row, config in ablation_configs(model).items()}
    return {row: next(other for other in ABLATIONS if configs[other] == configs[row]) for row in ABLATIONS}


def _unnamed(config: ModelConfig) -> ModelConfig:
    """Returns a config without its name; FIT before a SET that passes on what it is given is FIT alone."""
    if config.neck == "fit+set" and config.set_block == "identity":
        config = replace(config, neck="fit", set_block="transformer")
    return replace(config, name="")


def _as_option(row: str) -> str:
    """Returns a row as `--ablation` takes it."""
    table, value = row.split("/")
    return f"{OPTION_OF[table]}={value}"


def _place(output: str, row: str) -> str:
    return storage.join(output, re.sub(r"[=+]", "-", _as_option(row)))


def _train(options: Options, output: str, row: str) -> int:
    """Runs `handocc train` for one row, in a process of its own: Ray connects once in a process."""
    place = _place(output, row)
    command = [sys.executable, "-m", "jobs.train", *options.shards, "--ablation", _as_option(row)]
    command += ["--validation", *options.validation, "--output", place, "--resume"]
    command += ["--config", options.train] if options.train else []
    command += ["--address", options.address] if options.address else []
    say(f"{_as_option(row)}: {place}")
    return subprocess.run(command, env=dict(os.environ), check=False).returncode


def _measured(place: str) -> Mapping[str, float]:
    """Returns the last validation of a run."""
    rows: Sequence[dict[str, Any]] = [
        json.loads(line) for line in storage.read(storage.join(place, "metrics.jsonl")).splitlines()
    ]
    last = next(row for row in reversed(rows) if any(key.startswith("validation/") for key in row))
    return {key.removeprefix("validation/"): value for key, value in last.items()}


if __name__ == "__main__":
    from jobs.cli import command

    command(["ablate", *sys.argv[1:]])
