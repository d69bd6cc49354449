"""`handocc prepare`: a benchmark's own layout to training shards."""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs import exits, record, work
from jobs.cluster import require_answer
from jobs.console import say
from jobs.options import option, require_least
from pipeline import lease, storage
from pipeline.datasets import DATASETS
from pipeline.datasets.agreement import Agreement, sum_up
from pipeline.datasets.agreement import remarks as suspicions
from pipeline.datasets.benchmark import Benchmark, Dataset
from pipeline.datasets.dexycb import SPLITS as DEXYCB_SPLITS
from pipeline.datasets.hand_models import HandModels, left_is_faulty, load_hand_models
from pipeline.datasets.shards import Account, ShardPreparer, accounts, plan_shards, prepare_flow
from pipeline.errors import ConfigError
from pipeline.fingerprint import fingerprint_of
from pipeline.records import Counts, Unit
from pipeline.synthesis.shards import shard_uri

LABELS_VERSION = "2"  # of what is written for the same frames


@dataclass(frozen=True)
class Options:
    """Turns a benchmark as it was downloaded into training shards: labels in one convention, pictures as they are."""

    dataset: str = option(help=f"which benchmark: {', '.join(DATASETS)}", positional=True)
    root: str = option(help="folder or URI of the benchmark as downloaded", positional=True)
    output: str = option(help="folder or URI that takes the shards")
    split: str | None = option(None, help="which part of it; by default its training split")
    mano: str | None = option(None, help="folder with MANO_RIGHT.pkl and MANO_LEFT.pkl, or `synthetic`")
    per_shard: int = option(200, help="frames per shard")
    retry_rejected: bool = option(False, help="do anew the shards whose frames were rejected in part")
    overwrite: bool = option(False, help="do anew what another job left in the output")
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Writes the shards that are not there yet."""
    started = time.monotonic()
    dataset, split = _chosen(options)
    models = _hand_models(options, dataset)
    root, output = storage.canonical(options.root), storage.canonical(options.output)
    if not storage.is_folder(root):
        raise ConfigError(
            f"{options.root}: no such folder; ROOT must be the folder of {dataset.title} as downloaded"
        )
    remarks = _remarks(options, split, models)
    for remark in remarks:
        say(remark)
    say(f"listing {dataset.title}, {split}")
    benchmark = dataset.find(root, split, models)
    if not len(benchmark):
        raise ConfigError(f"{options.root}: the split {split} lists no frames")
    content = {
        "labels_version": LABELS_VERSION,
        "dataset": options.dataset,
        "root": root,
        "split": split,
        "frames": len(benchmark),
        "truth": list(benchmark.truth),
        "per_shard": options.per_shard,
        "hand_model": None if models is None else models.name,
        "left_hand_model": None if models is None or models.left is None else models.left.name,
    }
    fingerprint = fingerprint_of(content)
    record.require_same(output, "prepare", content, fingerprint, overwrite=options.overwrite)
    require_answer(options.address)
    storage.require_writable(output)
    units = plan_shards(options.dataset, split, root, len(benchmark), options.per_shard)
    with lease.hold(output):
        storage.sweep(output)
        # What this job made before it was killed stays. While another's is removed, job.json is still its.
        if options.overwrite and not record.is_of(output, fingerprint):
            _forget_shards(output)
        job = record.job("prepare", options, content) | {"remarks": remarks}
        record.write(output, "job.json", job)
        left = _left(units, accounts(output, units), options.retry_rejected)
        if options.retry_rejected:
            # A new ledger beside an old shard would say that all is done.
            storage.delete_all(shard_uri(output, unit) for unit in left)
        outcome = _carry_out(output, benchmark, models, left, options.address)
        done = accounts(output, units).values()
        total = sum((account.counts for account in done), Counts())
        agreed = sum_up(account.agreement for account in done)
        remarks += suspicions(agreed)
        summary = work.summary(total, outcome, time.monotonic() - started, remarks)
        summary["agreement"] = {
            side: {
                "mano_joints_mm": sums.mean_mm,
                "farthest_hand_mm": sums.farthest_mm if sums.posed else None,
                "joints_in_box": sums.mean_share,
            }
            for side, sums in agreed.items()
        }
        record.write(output, "summary.json", summary)
    _show(output, len(units), total, agreed, outcome.units)
    return exits.REJECTS if total.samples_rejected else exits.DONE


def _chosen(options: Options) -> tuple[Dataset, str]:
    dataset = DATASETS.get(options.dataset)
    if dataset is None:
        raise ConfigError(f"{options.dataset}: there is no such benchmark; there are {', '.join(DATASETS)}")
    split = options.split or dataset.splits[0]
    if split not in dataset.splits:
        raise ConfigError(f"--split {split}: {dataset.title} has {', '.join(dataset.splits)}")
    require_least(options, "per_shard")
    return dataset, split


def _hand_models(options: Options, dataset: Dataset) -> HandModels | None:
    if options.mano is not None:
        return load_hand_models(options.mano)
    if dataset.needs_mano is not None:
        raise ConfigError(
            f"{options.dataset} needs --mano: {dataset.needs_mano}; give a folder with MANO_RIGHT.pkl and "
            "MANO_LEFT.pkl from mano.is.tue.mpg.de"
        )
    return None


def _remarks(options: Options, split: str, models: HandModels | None) -> list[str]:
    """What a person should know of the labels before they are made."""
    found = []
    if models is None and options.dataset.startswith("ho3d"):
        found.append("without --mano the shards do not say which hand model the parameters belong to")
    if options.mano == "synthetic":
        found.append(f"the hand model is the procedural hand {models and models.name}, in place of MANO")
    if split in DEXYCB_SPLITS and models is not None and models.left is not None and left_is_faulty(models):
        found.append(
            "MANO_LEFT.pkl has the published fault of its shape directions: betas of left hands are fitted anew, to "
            "the mirrored right hand"
        )
    return found


def _left(units: Sequence[Unit], done: Mapping[str, Account], retry_rejected: bool) -> list[Unit]:
    """The units that are not there yet, or have rejects and are to be tried again."""
    return [
        unit
        for unit in units
        if unit.unit_id not in done or (retry_rejected and done[unit.unit_id].counts.samples_rejected)
    ]


def _carry_out(
    output: str, benchmark: Benchmark, models: HandModels | None, left: Sequence[Unit], address: str | None
) -> work.Outcome:
    flow = prepare_flow(ShardPreparer(output, benchmark, models))
    return work.carry_out(lambda _: flow, left, address=address)


def _forget_shards(output: str) -> None:
    """Removes what an earlier job prepared there; what has another name is somebody else's."""
    names = "|".join(
        re.escape(f"{name}-{split.replace('_', '-')}")
        for name, dataset in DATASETS.items()
        for split in dataset.splits
    )
    unit = rf"({names})-\d{{8,}}-\d{{8,}}"
    written = re.compile(rf"{unit}\.tar|ledger/{unit}\.parquet")
    # The shard, which is the commit, before its ledger.
    for file in sorted(storage.list_files(output), key=lambda file: not file.uri.endswith(".tar")):
        if written.fullmatch(storage.key_below(output, file.uri)):
            storage.delete(file.uri)


def _show(output: str, shards: int, total: Counts, agreed: Mapping[str, Agreement], worked: int) -> None:
    print(
        f"{total.samples} frames: {total.samples_with_hands} with a hand, {total.samples_without_hands} without, "
        f"{total.samples_rejected} rejected"
    )
    for kind, number in sorted(total.rejects.items(), key=lambda item: -item[1]):
        print(f"  rejected  {number:6d}  {kind}")
    for side, sums in agreed.items():
        if sums.mean_mm is not None:
            print(
                f"MANO's joints lie {sums.mean_mm:.2f} mm from the labelled ones of {side} hands on average"
            )
    for remark in suspicions(agreed):
        say(remark)
    print(f"{shards} shards" + ("" if worked else ", nothing was left to do") + f": {output}")


if __name__ == "__main__":
    from jobs.cli import command

    command(["prepare", *sys.argv[1:]])
