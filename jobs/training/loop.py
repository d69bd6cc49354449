"""The loop that every worker of a training run goes through, from the last checkpoint on."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray.exceptions
import ray.train
import ray.train.torch
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from jobs.training import stream
from jobs.training.board import Board
from jobs.training.checkpoints import restore, snapshot
from jobs.training.journal import Journal
from jobs.training.task import Task
from jobs.training.validation import validate
from model.handoccnet.network import HandOccNet
from model.losses import losses
from model.mano.layer import ManoLayer
from model.weights import load_imagenet_resnet50, load_weights, random_weights
from pipeline.training.samples import TrainingSamples
from pipeline.training.targets import to_images, to_targets
from pipeline.training.windows import ReadWindow, TrainingDataError

PASSED_OVER = 20  # steps in a row


class TrainingError(Exception):
    """Training cannot go on, and no restart would help: the message says why, and at which step."""


def train(config: Mapping[str, Any]) -> None:
    """Trains as one of several workers; `config` holds the `task` and the `board`."""
    task: Task = config["task"]
    board: Board = config["board"]
    if board.reason():
        return  # restarted after a failure that no restart can mend
    try:
        _Worker(task, board).run()
    except TrainingError as error:
        board.give_up(str(error))
        raise
    except ray.exceptions.RayTaskError as error:
        if told := TrainingDataError.found_in(str(error)):
            board.give_up(told)
        raise


class _Worker:
    def __init__(self, task: Task, board: Board) -> None:
        context = ray.train.get_context()
        self.task, self.board = task, board
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.lanes = range(self.rank, task.lanes, self.world)
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(task.threads)
        self.network = _network(task).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mano = ManoLayer(task.hand_model).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=task.recipe.learning_rate)
        self.position, journal = restore(self.network, self.optimizer, self.device)
        self.journal = Journal(task, journal) if self.rank == 0 else None
        self.running = self._prepared()
        self.passed_over = 0  # steps without a finite gradient, up to now

    def _prepared(self) -> nn.Module:
        """The network as it is called: compiled, its gradients averaged over the workers."""
        network: nn.Module = self.network
        if self.task.compile:
            network.compile()
        if self.world == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Batch statistics are each worker's own, as in the published training; they are averaged when they
        # are needed.
        return nn.parallel.DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)

    def run(self) -> None:
        """Trains to the last step, with a checkpoint and a validation after every epoch."""
        order, last = self.task.order, self.task.last_step
        if self.position.done == 0:
            self._close_epoch(trained=False)
        while self.position.done < last:
            epoch, step = divmod(self.position.done, order.steps)
            self.network.train()
            batches = stream.micro_batches(self.task, epoch=epoch, first_step=step, lanes=self.lanes)
            for batch in batches:
                self._step(batch)
                if self.position.done >= last:
                    break
                if self._checkpoint_due() and self.position.done % order.steps:
                    self._checkpoint({})
            self._close_epoch(trained=True)

    def _checkpoint_due(self) -> bool:
        every = self.task.checkpoint_steps
        return every is not None and self.position.done % every == 0

    def _step(self, batch: Sequence[ReadWindow]) -> None:
        order = self.task.order
        epoch, step = divmod(self.position.done, order.steps)
        rate = self.task.recipe.rate(
            batch=order.batch, epoch=epoch, step=step, steps_per_epoch=order.steps, epochs=self.task.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number, read in enumerate(batch):
            for reason in read.skipped:
                self.board.say(f"passed over {reason}")
            with self._gradients_stay_here(number < len(batch) - 1):
                terms = self._losses(read.samples)
                # Workers' gradients are averaged, whose sum over the lanes is wanted.
                (terms["total"] * (self.world / order.lanes)).backward()
            for name, value in terms.items():
                sums[name] = (
                    sums.get(name, torch.zeros((), device=self.device)) + value.detach() / order.lanes
                )
        values = self._summed(sums)
        if not math.isfinite(values["total"]):
            self._give_up_on_loss([read.samples for read in batch], values)
        self._update(values)
        self.position = self.position.after_step()
        if self.journal:
            seconds = time.perf_counter() - started
            self.journal.step(self.position.done, epoch, values, rate, seconds)
            if line := self.journal.line():
                self.board.say(line)

    def _update(self, values: dict[str, float]) -> None:
        """Takes one step of the optimiser, unless the gradient is not finite; all workers see the same one.

        Six numbers whose halves are parallel have no gradient, and a network that learns rotations from nothing
        comes near such places: one such step is passed over, and many in a row are an error.
        """
        limit = float("inf") if self.task.clip_norm is None else self.task.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), limit))
        finite = math.isfinite(norm)
        self.passed_over = 0 if finite else self.passed_over + 1
        if self.passed_over > PASSED_OVER:
            raise TrainingError(
                f"the gradient was not finite in {self.passed_over} steps in a row, up to step "
                f"{self.position.done + 1}; the last checkpoint is intact: --resume with a lower --learning-rate"
            )
        if finite:
            values["gradient_norm"] = norm
            self.optimizer.step()
        values["passed_over"] = float(not finite)

    @contextlib.contextmanager
    def _gradients_stay_here(self, here: bool) -> Iterator[None]:
        if here and isinstance(self.running, nn.parallel.DistributedDataParallel):
            with self.running.no_sync():
                yield
        else:
            yield

    def _losses(self, samples: TrainingSamples) -> dict[str, Tensor]:
        targets = to_targets(samples, self.device, self.task.supervise)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.task.precision == "bf16"):
            output = self.running(to_images(samples, self.device))
        return losses(output, targets, self.mano, self.task.recipe.losses)

    def _summed(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(sums)
        values = torch.stack([sums[name].float() for name in names])
        if self.world > 1:
            distributed.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def _give_up_on_loss(self, batch: Sequence[TrainingSamples], values: Mapping[str, float]) -> None:
        """Every worker comes here together, since the sums are everybody's; one with a sample to name names it."""
        bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        culprits = [self._culprits(samples) for samples in batch]
        named = [key for keys in culprits for key in keys]
        if self.world > 1:
            everybody: list[Any] = [None] * self.world
            distributed.all_gather_object(everybody, named)
            named = [key for keys in everybody for key in keys]
        at = f"step {self.position.done + 1}"
        raise TrainingError(
            f"the loss is not finite at {at} ({bad}); samples: {', '.join(named[:3]) or 'none by itself'}; "
            "the last checkpoint is intact: --resume with a lower --learning-rate or --clip-norm 1"
        )

    def _culprits(self, samples: TrainingSamples) -> list[str]:
        """The samples whose own loss is not finite, each in eval mode, where others do not reach it."""
        self.network.eval()
        with torch.no_grad():
            alone = [
                float(self._losses(samples[index : index + 1])["total"]) for index in range(len(samples))
            ]
        return [key for key, value in zip(samples.keys, alone, strict=True) if not math.isfinite(value)]

    def _close_epoch(self, *, trained: bool) -> None:
        """Validates, and keeps what was reached."""
        self._average_statistics()
        metrics: dict[str, float] = {}
        if self.task.validation:
            metrics, pictures = validate(
                self.task, self.network, self.mano, self.device, self.rank, self.world
            )
            if self.journal:
                self.journal.pictures(self.position.done, pictures)
        if self.journal:
            epoch = self.position.done / self.task.order.steps
            self.journal.epoch(self.position.done, epoch, metrics)
            self.board.say(self.journal.epoch_line(epoch, metrics))
        if trained:
            self._checkpoint(metrics)

    def _checkpoint(self, metrics: Mapping[str, float]) -> None:
        """Commits the position: every worker meets here, and the first one writes."""
        self._average_statistics()
        with snapshot(self.network, self.optimizer, self.position, self.journal) as checkpoint:
            ray.train.report({"step": self.position.done, **metrics}, checkpoint=checkpoint)
        if self.journal:
            self.journal.publish(self.network, metrics)

    def _average_statistics(self) -> None:
        """Makes batch norm's running statistics the same on all workers, as they are in one checkpoint."""
        if self.world == 1:
            return
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.world


def _network(task: Task) -> HandOccNet:
    if task.start is not None:
        network = load_weights(task.start, task.config).network
    else:
        network = random_weights(task.config, task.seed).network
    if task.trunk is not None:
        load_imagenet_resnet50(network, task.trunk)
    if task.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network
