"""`handocc train`: any preset or ablation, trained by Ray Train from shards, on one machine or a cluster."""

import contextlib
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from jobs import exits, record
from jobs.cluster import connect
from jobs.console import say
from jobs.model_choice import choose_hand_model, read_file, read_weights, weights_of
from jobs.options import option, require_least
from jobs.training import staff
from jobs.training.begin import begin
from jobs.training.fit import fit
from jobs.training.shards import hand_model_named, plan
from jobs.training.task import Task
from model.config import ModelConfig, ablated, preset
from model.mano.asset import HandModel
from model.mano.synthetic import synthetic_hand
from model.recipe import OF_MODEL, Recipe, recipe
from model.weights import adapted_weights
from pipeline import lease, storage
from pipeline.errors import ConfigError, Interrupted
from pipeline.records import Unit

MICRO_BATCH = 16
RESUME = "the same command with --resume continues from the last checkpoint"


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
    micro_batch: int | None = option(
        None,
        help="samples that go through the network at once, with batch statistics of their own; default: the most "
        "that divide the batch, up to 16",
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
    weights: str | None = option(None, help="start from these weights: a file, or shipped:tiny")
    adapt: bool = option(
        False, help="take of --weights what fits, as of another ablation; the other parts start untrained"
    )
    trunk: str | None = option(None, help="start the trunk from torchvision's ResNet-50 (ImageNet)")
    mano: str | None = option(
        None,
        help="MANO_RIGHT.pkl, the authors' checkpoint or synthetic; default: synthetic where the shards are",
    )
    workers: str | None = option(
        None, help="N, or MIN:MAX to grow and shrink; default: one per GPU, else one"
    )
    gpus_per_worker: float | None = option(None, help="default: 1 where the cluster has GPUs, else 0")
    threads: int | None = option(None, help="CPU threads of a worker; default: its share of the machine")
    precision: Literal["fp32", "bf16"] = option("fp32", help="bf16: mixed precision")
    clip_norm: float | None = option(None, help="clip the gradient's norm")
    compile: bool = option(False, help="torch.compile the network")
    cuda_graph: bool = option(
        False, help="record a step's kernels once and launch them as one (one worker with a GPU)"
    )
    sync_batch_norm: bool = option(False, help="batch statistics over all workers (GPUs only)")
    seed: int = option(0, help="of the untrained weights and of the order of the data")
    half: bool = option(False, help="write the weights as float16, in half the space")
    keep: int = option(3, help="checkpoints to keep: the best so many, and the last")
    checkpoint_steps: int | None = option(
        None, help="a checkpoint every so many steps too, not only every epoch"
    )
    log_steps: int = option(20, help="a line of metrics.jsonl every so many steps")
    max_failures: int = option(3, help="how often a worker may die before the run does")
    resume: bool = option(False, help="continue the run in the output, if there is one")
    overwrite: bool = option(False, help="do anew what another run left in the output")
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Trains to the end of the last epoch."""
    config = ablated(preset(options.model), options.ablation)
    chosen = _recipe(options)
    _require_sense(options)
    batch = options.batch_size or chosen.reference_batch
    micro = _micro_batch(options, batch)
    workers = staff.asked(options.workers)
    output = storage.canonical(options.output)
    record.require_own(output, "train")
    start = None if options.weights is None else _read_start(options.weights, config, adapt=options.adapt)
    trunk = None if options.trunk is None else read_file(options.trunk, "--trunk")
    hand_model, remarks = _hand_model(options)
    if start is not None and options.adapt:
        remarks += _adapted(start, config)
    storage.require_writable(output)
    with lease.hold(output), _resumable(), connect(options.address) as resources:
        chosen_staff = staff.choose(
            resources,
            workers=workers,
            gpus_per_worker=options.gpus_per_worker,
            threads=options.threads,
            lanes=batch // micro,
        )
        if options.cuda_graph and (not chosen_staff.gpus or chosen_staff.most > 1):
            raise ConfigError(
                f"--cuda-graph is for one worker with a GPU, not for {chosen_staff.most} with "
                f"{chosen_staff.gpus:g} each; leave it out, or see --workers and --gpus-per-worker"
            )
        if options.sync_batch_norm and not chosen_staff.gpus:
            raise ConfigError(
                "--sync-batch-norm: torch has it for GPUs only; leave it out, or raise --micro-batch"
            )
        segments = plan(output, "train", options.shards)
        validation = plan(output, "validation", options.validation) if options.validation else []
        settings = {
            "epochs": chosen.epochs,
            "learning_rate": chosen.learning_rate,
            "precision": options.precision,
            "clip_norm": options.clip_norm,
            "half": options.half,
        }
        content = {
            "model": config.to_dict(),
            "hand_model": hand_model.name,
            "recipe": {name: value for name, value in asdict(chosen).items() if name not in settings},
            "batch": batch,
            "micro_batch": micro,
            "seed": options.seed,
            "supervise": options.supervise,
            "sync_batch_norm": options.sync_batch_norm,
            "start": hashlib.sha256(start).hexdigest() if start else None,
            "adapt": options.adapt,
            "trunk": hashlib.sha256(trunk).hexdigest() if trunk else None,
            "data": _digest(segments),
            "validation": _digest(validation),
        }
        about = {"options": record.without_secrets(asdict(options)), "remarks": list(remarks)}
        about |= {"versions": record.versions(), "machine": record.machine()}
        begin(output, content, settings, about, resume=options.resume, overwrite=options.overwrite)
        for remark in remarks:
            say(f"note: {remark}")
        task = Task(
            output=output,
            config=config,
            hand_model=hand_model,
            recipe=chosen,
            epochs=chosen.epochs,
            segments=segments,
            validation=validation,
            lanes=batch // micro,
            micro_batch=micro,
            seed=options.seed,
            supervise=options.supervise,
            start=start,
            adapt=options.adapt,
            trunk=trunk,
            precision=options.precision,
            clip_norm=options.clip_norm,
            compile=options.compile,
            cuda_graph=options.cuda_graph,
            half=options.half,
            sync_batch_norm=options.sync_batch_norm,
            threads=chosen_staff.threads,
            read_cpus=chosen_staff.read_cpus,
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
        fit(task, chosen_staff, keep=options.keep, max_failures=options.max_failures)
    print(f"weights: {storage.join(output, 'weights')}")
    return exits.DONE


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Says how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted", RESUME) from error
    except Interrupted as error:
        raise Interrupted(str(error), RESUME) from error


def _recipe(options: Options) -> Recipe:
    chosen = recipe(options.recipe or OF_MODEL[options.model])
    augmentation = chosen.augmentation
    if options.rotation is not None:
        augmentation = replace(augmentation, rotation_deg=options.rotation)
    if options.paste is not None:
        augmentation = replace(augmentation, paste=options.paste)
    rate = chosen.learning_rate if options.learning_rate is None else options.learning_rate
    epochs = chosen.epochs if options.epochs is None else options.epochs
    return replace(chosen, augmentation=augmentation, learning_rate=rate, epochs=epochs)


def _micro_batch(options: Options, batch: int) -> int:
    micro = options.micro_batch
    if micro is None:
        micro = max(size for size in range(1, min(MICRO_BATCH, batch) + 1) if batch % size == 0)
    if micro < 2:
        raise ConfigError(
            f"--micro-batch {micro} of --batch-size {batch}: batch norm needs at least two samples at once"
        )
    if batch % micro:
        raise ConfigError(f"--batch-size {batch} is not a multiple of --micro-batch {micro}")
    return micro


def _require_sense(options: Options) -> None:
    require_least(
        options, "epochs", "steps", "batch_size", "keep", "checkpoint_steps", "log_steps", "threads"
    )
    for name in ("learning_rate", "clip_norm"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: must be a positive number")
    if options.rotation is not None and not 0 <= options.rotation <= 180:
        raise ConfigError(f"--rotation {options.rotation:g}: must be 0 to 180 degrees")
    if options.paste is not None and not 0 <= options.paste <= 1:
        raise ConfigError(f"--paste {options.paste:g}: must be between 0 and 1")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: must not be negative")
    if options.max_failures < 0:
        raise ConfigError(f"--max-failures {options.max_failures}: must be 0 or more")
    if options.adapt and options.weights is None:
        raise ConfigError("--adapt takes what fits of --weights, which is missing")
    if options.compile and options.cuda_graph:
        raise ConfigError("--compile and --cuda-graph exclude each other")
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


def _read_start(uri: str, config: ModelConfig, *, adapt: bool) -> bytes:
    """Reads what training starts from, which is of this very model unless it is adapted."""
    data = read_weights(uri)
    if not adapt:
        weights_of(data, uri, config, "--adapt takes what fits of it")
    return data


def _adapted(start: bytes, config: ModelConfig) -> tuple[str, ...]:
    """Says what these weights leave untrained of the model, if they do."""
    _, untrained = adapted_weights(start, config, 0)
    lacking = f"--weights lack parts of this model, which start untrained: {', '.join(untrained)}"
    return (lacking,) if untrained else ()


def _digest(units: Sequence[Unit]) -> str:
    text = "\n".join(unit.to_json() for unit in units)
    return hashlib.sha256(text.encode()).hexdigest()


def _notes(hand_model: HandModel, chosen: Recipe) -> dict[str, str]:
    notes = {"recipe": chosen.name}
    if hand_model.name.startswith("synthetic"):
        notes["trained on"] = "labels of the procedural hand only"
    return notes


if __name__ == "__main__":
    from jobs.cli import command

    command(["train", *sys.argv[1:]])
