"""`handocc train`: any preset or ablation, trained by Ray Train from shards, on one machine or a cluster."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from jobs import exits, record
from jobs.cluster import Resources, connect
from jobs.console import say
from jobs.model_choice import choose_hand_model, read_file
from jobs.options import option
from jobs.training.board import Board
from jobs.training.journal import SCORE
from jobs.training.loop import train
from jobs.training.shards import hand_model_named, plan
from jobs.training.task import Task
from model.config import ablated, preset
from model.mano.asset import HandModel
from model.mano.synthetic import synthetic_hand
from model.recipe import OF_MODEL, Recipe, recipe
from model.weights import load_weights
from pipeline import lease, storage
from pipeline.errors import ConfigError, Interrupted
from pipeline.records import Unit

RUN = "run"  # Ray Train's own folder in the output


@dataclass(frozen=True)
class Options:
    """Trains a network from training shards; the same command with --resume continues an interrupted run."""

    shards: tuple[str, ...] = option(
        help="training shards: folders, .tar files, globs, {00..99}, @list.txt", positional=True
    )
    output: str = option(help="folder or URI that takes checkpoints, weights, logs and pictures")
    validation: tuple[str, ...] = option((), help="shards to measure on after every epoch")
    model: str = option("release", help="paper, release or tiny")
    ablation: tuple[str, ...] = option((), help="NAME=VALUE: a row of the paper's Tables 1-4, as fit=softmax")
    recipe: str | None = option(
        None, help="paper, release, release-dexycb or small; default: the model's own"
    )
    epochs: int | None = option(None, help="default: the recipe's")
    steps: int | None = option(None, help="end after so many steps, in the middle of an epoch too")
    batch_size: int | None = option(None, help="samples a step, over all workers; default: the recipe's")
    micro_batch: int = option(
        16, help="samples that go through the network at once, with batch statistics of their own"
    )
    learning_rate: float | None = option(
        None, help="for the recipe's batch; another --batch-size scales it in proportion"
    )
    rotation: float | None = option(None, help="augmentation: standard deviation of the turn in degrees")
    paste: float | None = option(
        None, help="augmentation: probability that an occluder is drawn over the crop"
    )
    supervise: Literal["all", "joints"] = option(
        "all", help="joints: learn from 2D and 3D joints alone, from shards of any hand model"
    )
    weights: str | None = option(None, help="start from these weights")
    trunk: str | None = option(None, help="start the trunk from torchvision's ResNet-50 (ImageNet)")
    mano: str | None = option(
        None, help="MANO_RIGHT.pkl or synthetic; default: synthetic where the shards are"
    )
    workers: str | None = option(
        None, help="N, or MIN:MAX to grow and shrink; default: one per GPU, else one"
    )
    gpus_per_worker: float | None = option(None, help="default: 1 where the cluster has GPUs, else 0")
    threads: int | None = option(None, help="CPU threads of a worker; default: its share of the machine")
    precision: Literal["fp32", "bf16"] = option("fp32", help="bf16: mixed precision")
    clip_norm: float | None = option(None, help="clip the gradient's norm")
    compile: bool = option(False, help="torch.compile the network")
    sync_batch_norm: bool = option(False, help="batch statistics over all workers (GPUs only)")
    seed: int = option(0, help="of the untrained weights and of the order of the data")
    keep: int = option(3, help="checkpoints to keep: the best so many, and the last")
    checkpoint_steps: int | None = option(
        None, help="a checkpoint every so many steps too, not only every epoch"
    )
    log_steps: int = option(20, help="a line of metrics.jsonl every so many steps")
    max_failures: int = option(3, help="how often a worker may die before the run does")
    resume: bool = option(False, help="continue the run in the output, if there is one")
    overwrite: bool = option(False, help="do anew what another run left in the output")
    address: str | None = option(None, help="a Ray cluster; default: this machine")


def run(options: Options) -> int:
    """Trains to the end of the last epoch."""
    config = ablated(preset(options.model), options.ablation)
    chosen = _recipe(options)
    batch = options.batch_size or chosen.reference_batch
    micro = min(options.micro_batch, batch)
    _require_sense(options, batch, micro)
    output = storage.canonical(options.output)
    start = None if options.weights is None else read_file(options.weights, "--weights")
    trunk = None if options.trunk is None else read_file(options.trunk, "--trunk")
    hand_model, remarks = _hand_model(options)
    if start is not None:
        load_weights(start, config)
    storage.require_writable(output)
    with lease.hold(output), connect(options.address) as resources:
        segments = plan(output, "train", options.shards)
        validation = plan(output, "validation", options.validation) if options.validation else []
        content = {
            "model": config.to_dict(),
            "hand_model": hand_model.name,
            "recipe": json.loads(json.dumps(asdict(chosen))),
            "batch": batch,
            "micro_batch": micro,
            "epochs": options.epochs or chosen.epochs,
            "seed": options.seed,
            "supervise": options.supervise,
            "precision": options.precision,
            "clip_norm": options.clip_norm,
            "start": hashlib.sha256(start).hexdigest() if start else None,
            "trunk": hashlib.sha256(trunk).hexdigest() if trunk else None,
            "data": _digest(segments),
            "validation": _digest(validation),
        }
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        _settle_output(options, output, content, fingerprint)
        job = {"command": "train", "options": record.without_secrets(asdict(options)), "content": content}
        job |= {"fingerprint": fingerprint, "remarks": list(remarks)}
        job |= {"versions": record.versions(), "machine": record.machine()}
        record.write(output, "job.json", job)
        for remark in remarks:
            say(remark)
        workers, gpus = _workers(options, resources)
        most = workers if isinstance(workers, int) else workers[1]
        worker_cpus = min(1.0, max(0.25, (resources.cpus - 1) / most))
        task = Task(
            output=output,
            config=config,
            hand_model=hand_model,
            recipe=chosen,
            epochs=options.epochs or chosen.epochs,
            segments=segments,
            validation=validation,
            lanes=batch // micro,
            micro_batch=micro,
            seed=options.seed,
            supervise=options.supervise,
            start=start,
            trunk=trunk,
            precision=options.precision,
            clip_norm=options.clip_norm,
            compile=options.compile,
            sync_batch_norm=options.sync_batch_norm,
            threads=options.threads or max(1, int(resources.node_cpus) // most),
            read_cpus=min(1.0, (resources.cpus - most * worker_cpus) / most),
            checkpoint_steps=options.checkpoint_steps,
            steps=options.steps,
            log_steps=options.log_steps,
            notes=_notes(hand_model, chosen),
        )
        say(
            f"{sum(task.order.segments)} samples, {task.order.steps} steps an epoch of {batch} "
            f"({task.lanes} x {micro}), {task.last_step} steps in all; "
            f"learning rate {chosen.learning_rate * batch / chosen.reference_batch:.3g}"
        )
        _fit(task, workers, gpus, worker_cpus, options)
    print(f"weights: {storage.join(output, 'weights')}")
    return exits.DONE


def _fit(
    task: Task, workers: int | tuple[int, int], gpus: float, worker_cpus: float, options: Options
) -> None:
    board = Board()
    filesystem, path = storage.arrow_filesystem(task.output)
    resources = {"CPU": worker_cpus} | ({"GPU": gpus} if gpus else {})
    best = {"checkpoint_score_attribute": SCORE, "checkpoint_score_order": "min"} if task.validation else {}
    trainer = TorchTrainer(
        train,
        train_loop_config={"task": task, "board": board},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=options.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=options.keep, **best),
        ),
    )
    with board.shown(say):
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reason = board.reason()
            if reason is not None:
                raise ConfigError(reason) from error
            last = str(error).strip().splitlines()[-1]
            raise Interrupted(
                f"a worker died more than {options.max_failures} times ({last}); "
                "give it fewer samples at once with --micro-batch if memory ran out, and --resume"
            ) from error
    if reason := board.reason():
        raise ConfigError(reason)


def _recipe(options: Options) -> Recipe:
    chosen = recipe(options.recipe or OF_MODEL[options.model])
    augmentation = chosen.augmentation
    if options.rotation is not None:
        augmentation = replace(augmentation, rotation_deg=options.rotation)
    if options.paste is not None:
        augmentation = replace(augmentation, paste=options.paste)
    rate = chosen.learning_rate if options.learning_rate is None else options.learning_rate
    return replace(chosen, augmentation=augmentation, learning_rate=rate)


def _require_sense(options: Options, batch: int, micro: int) -> None:
    for name in (
        "epochs",
        "steps",
        "batch_size",
        "micro_batch",
        "keep",
        "checkpoint_steps",
        "log_steps",
        "threads",
    ):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if micro < 2:
        raise ConfigError("--micro-batch 1: batch norm needs at least two samples")
    if batch % micro:
        raise ConfigError(f"--batch-size {batch} is not a multiple of --micro-batch {micro}")
    if options.resume and options.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")


def _hand_model(options: Options) -> tuple[HandModel, tuple[str, ...]]:
    """The hand model that --mano names, or else the one that the first shard's labels name."""
    named = options.mano
    if named is None:
        if hand_model_named(options.shards) != synthetic_hand().name:
            raise ConfigError(
                "needs --mano: MANO_RIGHT.pkl of mano.is.tue.mpg.de, to which the labels' poses belong"
            )
        named = "synthetic"
    return choose_hand_model(named)


def _settle_output(options: Options, output: str, content: dict[str, object], fingerprint: str) -> None:
    """Refuses to mix runs: what is there is continued, done anew, or left alone."""
    there = record.read(output, "job.json")
    if there is None:
        return
    if options.overwrite:
        for folder in (RUN, "weights", "pictures", "tensorboard"):
            for file in list(storage.list_files(storage.join(output, folder))):
                storage.delete(file.uri)
        storage.delete(storage.join(output, "metrics.jsonl"))
        return
    record.require_same(output, content, fingerprint)
    if not options.resume:
        raise ConfigError(f"{output} holds this run already: --resume continues it, --overwrite does it anew")


def _workers(options: Options, resources: Resources) -> tuple[int | tuple[int, int], float]:
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if resources.gpus else 0.0
    if options.workers is None:
        return max(1, int(resources.gpus / gpus)) if gpus else 1, gpus
    least, _, most = options.workers.partition(":")
    if not least.isdecimal() or not (most or least).isdecimal() or not 1 <= int(least) <= int(most or least):
        raise ConfigError(f"--workers {options.workers}: N or MIN:MAX, from 1 up")
    return (int(least), int(most)) if most else int(least), gpus


def _digest(units: Sequence[Unit]) -> str:
    text = "\n".join(unit.to_json() for unit in units)
    return hashlib.sha256(text.encode()).hexdigest()


def _notes(hand_model: HandModel, chosen: Recipe) -> dict[str, str]:
    notes = {"recipe": chosen.name}
    if hand_model.name.startswith("synthetic"):
        notes["trained on"] = "synthetic hands only"
    return notes


if __name__ == "__main__":
    from jobs.cli import command

    command(["train", *sys.argv[1:]])
