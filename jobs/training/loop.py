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
from jobs.training.captured import CapturedGradients
from jobs.training.checkpoints import SCORE, restore, score, snapshot
from jobs.training.journal import Journal
from jobs.training.task import Task
from jobs.training.validation import validate
from model.handoccnet.network import HandOccNet
from model.losses import Targets, losses
from model.mano.layer import ManoLayer
from model.weights import adapted_weights, load_imagenet_resnet50, load_weights, random_weights
from pipeline.errors import StorageError
from pipeline.training.samples import TrainingSamples
from pipeline.training.targets import to_crops, to_images, to_targets
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
    except (TrainingError, TrainingDataError) as error:
        board.give_up(str(error))
        raise
    except ray.exceptions.RayTaskError as error:
        if told := TrainingDataError.found_in(str(error)):
            board.give_up(told)
        raise


class _Worker:
    def __init__(self, task: Task, board: Board) -> None:
        context = ray.train.get_context()
        self.task, self.board, self.order = task, board, task.order
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.lanes = range(self.rank, task.lanes, self.world)
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(task.threads)
        self.network = _network(task).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mano = ManoLayer(task.hand_model).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=task.recipe.learning_rate, fused=self.device.type == "cuda" or None
        )
        position = restore(self.network, self.optimizer)
        self.done = self.committed = position.done
        self.journal = Journal(task, position.journal) if self.rank == 0 else None
        self.running = self._prepared()
        self.captured: CapturedGradients | None = None
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
        if self.done == 0:
            self._close_epoch(trained=False)
        elif self.journal:
            self.board.say(f"goes on from step {self.done}")
            # The run may have ended between a checkpoint and what follows it.
            self.journal.publish(self.network, self.done)
        while self.done < self.task.last_step:
            self._epoch()
            self._close_epoch(trained=True)

    def _epoch(self) -> None:
        """Trains to the end of the epoch, or of the run."""
        self.network.train()
        epoch, step = divmod(self.done, self.order.steps)
        last = min(self.task.last_step, (epoch + 1) * self.order.steps)
        batches = stream.micro_batches(
            self.task, epoch=epoch, first_step=step, lanes=self.lanes, world=self.world
        )
        with contextlib.closing(batches):
            while self.done < last:
                started = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - started
                values, rate = self._step(batch)
                if self.journal:
                    seconds = time.perf_counter() - started
                    self.journal.step(self.done, values, rate, seconds=seconds, waited=waited)
                    if line := self.journal.line():
                        self.board.say(line)
                every = self.task.checkpoint_steps
                if every is not None and self.done % every == 0 and self.done < last:
                    self._checkpoint({})

    def _step(self, batch: Sequence[ReadWindow]) -> tuple[dict[str, float], float]:
        """Takes one step; returns its losses over all lanes, the gradient's norm, and the learning rate."""
        epoch, step = divmod(self.done, self.order.steps)
        rate = self.task.recipe.rate(
            batch=self.order.batch,
            epoch=epoch,
            step=step,
            steps_per_epoch=self.order.steps,
            epochs=self.task.epochs,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.task.cuda_graph and self.captured is None:
            self.captured = CapturedGradients(self._gradients, self._inputs(batch[0].samples), self.network)
        gradients = self.captured or self._gradients
        self.optimizer.zero_grad(set_to_none=self.captured is None)
        sums: dict[str, Tensor] = {}
        for number, read in enumerate(batch):
            self.board.pass_over(read.skipped)
            with self._gradients_stay_here(number < len(batch) - 1):
                terms = gradients(self._inputs(read.samples))
            for name, value in terms.items():
                share = value / self.order.lanes
                sums[f"loss/{name}"] = sums.get(f"loss/{name}", torch.zeros_like(share)) + share
        values = self._summed(sums)
        bad = [name.removeprefix("loss/") for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self._give_up(f"the loss ({', '.join(bad)}) is not finite", [read.samples for read in batch])
        values |= self._update([read.samples for read in batch])
        self.done += 1
        return values, rate

    def _update(self, batch: Sequence[TrainingSamples]) -> dict[str, float]:
        """Takes one step of the optimiser, unless the gradient is not finite; all workers see the same one.

        Six numbers whose halves are parallel have no gradient, and a network that learns rotations from nothing
        comes near such places: one such step is passed over, and many in a row are an error.
        """
        norm = self._gradient_norm()
        finite = math.isfinite(norm)
        self.passed_over = 0 if finite else self.passed_over + 1
        if self.passed_over > PASSED_OVER:
            self._give_up(
                f"the gradient was not finite in {self.passed_over} steps in a row, the last", batch
            )
        if not finite:
            return {"passed_over": 1.0}
        if self.task.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.task.clip_norm, norm)
        self.optimizer.step()
        return {"passed_over": 0.0, "gradient_norm": float(norm)}

    @contextlib.contextmanager
    def _gradients_stay_here(self, here: bool) -> Iterator[None]:
        if here and isinstance(self.running, nn.parallel.DistributedDataParallel):
            with self.running.no_sync():
                yield
        else:
            yield

    def _inputs(self, samples: TrainingSamples) -> dict[str, Tensor]:
        targets = to_targets(samples, self.device, self.task.supervise)
        return {"crops": to_crops(samples, self.device), **targets._asdict()}

    def _gradients(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adds the gradients of a micro-batch to the parameters'; returns its losses."""
        terms = self._losses(self.running, inputs)
        # Workers' gradients are averaged, whose sum over the lanes is wanted.
        (terms["total"] * (self.world / self.order.lanes)).backward()
        return {name: value.detach() for name, value in terms.items()}

    def _losses(self, network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        targets = Targets(**{name: inputs[name] for name in Targets._fields})
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.task.precision == "bf16"):
            output = network(to_images(inputs["crops"]))
        return losses(output, targets, self.mano, self.task.recipe.losses)

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _summed(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(sums)
        values = torch.stack([sums[name].float() for name in names])
        if self.world > 1:
            distributed.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def _give_up(self, what: str, batch: Sequence[TrainingSamples]) -> None:
        """Every worker comes here together, since the numbers are everybody's; all name their samples."""
        here = [key for samples in batch for key in self._culprits(samples)]
        everybody: list[Any] = [here]
        if self.world > 1:
            everybody = [None] * self.world
            distributed.all_gather_object(everybody, here)
        named = [key for keys in everybody for key in keys]
        samples = ", ".join(named[:3]) or "none by itself"
        if len(named) == self.order.batch:
            samples = "every one, so that the weights have run away"
        raise TrainingError(
            f"{what} at step {self.done + 1}; samples: {samples}; the last checkpoint, of step {self.committed}, "
            "is intact: --resume with a lower --learning-rate or with --clip-norm 1"
        )

    def _culprits(self, samples: TrainingSamples) -> list[str]:
        """The samples whose own loss or gradient is not finite, each in eval mode, where others do not reach it."""
        self.network.eval()
        named = []
        for index, key in enumerate(samples.keys):
            self.network.zero_grad(set_to_none=True)
            total = self._losses(self.network, self._inputs(samples[index : index + 1]))["total"]
            total.backward()  # type: ignore[no-untyped-call]
            if not math.isfinite(float(total) + float(self._gradient_norm())):
                named.append(key)
        return named

    def _close_epoch(self, *, trained: bool) -> None:
        """Validates, and keeps what was reached."""
        self._average_statistics()
        metrics: dict[str, float] = {}
        if self.task.validation:
            found = validate(self.task, self.network, self.mano, self.device, self.rank, self.world)
            metrics = dict(found.metrics)
            self.board.pass_over(found.skipped)
            if self.journal:
                self.journal.pictures(self.done, found.sheet)
        if self.journal:
            epoch = self.done / self.order.steps
            self.journal.epoch(self.done, epoch, metrics)
            self.board.say(self.journal.epoch_line(epoch, metrics))
        if trained:
            self._checkpoint(metrics)

    def _checkpoint(self, metrics: Mapping[str, float]) -> None:
        """Commits the position: every worker meets here, and the first one writes."""
        self._average_statistics()
        reported = {"step": self.done, **metrics, SCORE: score(metrics)}
        try:
            if self.journal is None:
                ray.train.report(reported)
            else:
                with snapshot(self.network, self.optimizer, self.done, self.journal.state()) as checkpoint:
                    ray.train.report(reported, checkpoint=checkpoint)
        except OSError as error:
            raise StorageError(f"a checkpoint cannot be stored ({error})") from error
        if self.journal is not None:
            self.journal.publish(self.network, self.done)
        self.committed = self.done

    def _average_statistics(self) -> None:
        """Makes batch norm's running statistics the same on all workers, as they are in one checkpoint."""
        if self.world == 1:
            return
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.world


def _network(task: Task) -> HandOccNet:
    if task.start is not None and task.adapt:
        network = adapted_weights(task.start, task.config, task.seed)[0].network
    elif task.start is not None:
        network = load_weights(task.start, task.config).network
    else:
        network = random_weights(task.config, task.seed).network
    if task.trunk is not None:
        load_imagenet_resnet50(network, task.trunk)
    if task.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network
