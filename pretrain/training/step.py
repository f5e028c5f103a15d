"""One update of the weights: micro-batches in, new weights out, without waiting for the device in between."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretrain.config import OptimConfig
from pretrain.data.batches import Batch
from pretrain.masking.sampler import BatchRows, Masks, MaskSampler
from pretrain.objective import Objective
from pretrain.recipe import Precision
from pretrain.targets import Targets
from pretrain.training.compiling import compiling
from pretrain.training.distributed import Parallel, full
from pretrain.training.optimizer import Average, learning_rate, make_optimizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(Exception):
    """A loss or gradient became NaN or infinite."""

    def __init__(self, step: int, clips: list[int | str]) -> None:
        """Remember the batch: ``step``, counted from 0, and its ``clips``."""
        super().__init__(step, clips)
        self.step, self.clips = step, clips


@dataclass(frozen=True)
class Preparation:
    """Turns a micro-batch of waveforms into patches and masks on the device that trains."""

    objective: Objective
    sampler: MaskSampler
    device: torch.device
    passes: int = 1
    """Rows that each crop becomes, each with its own mask."""
    padded: bool = False
    """Whether rows may be padded."""
    look_up: Targets = field(default_factory=Targets)
    """Finds the targets of rows."""

    def __call__(self, batch: Batch, seed: tuple[int, int]) -> tuple[Tensor, Masks]:
        """(B, N, P) patches and the masks of the B rows, as `Objective.forward` takes them."""
        waveforms = batch.waveforms.to(self.device, non_blocking=True)
        lengths = batch.lengths.to(self.device, non_blocking=True) if self.padded else None
        patches = self.objective.patches(waveforms, lengths).repeat(self.passes, 1, 1)
        if lengths is not None:
            lengths = lengths.repeat(self.passes)
        rows = BatchRows(len(batch.clips), batch.first, batch.size, views=len(patches) // len(batch.clips))
        return patches, self.sampler.sample(rows, patches.shape[1], seed, patches.device, lengths)

    def targets(self, batch: Batch) -> dict[str, Tensor] | None:
        """The targets of the B rows, as `Objective.forward` takes them."""
        return self.look_up(batch, self.device, self.passes)


class Updater:
    """The weights, optimizer, loss scaler and moving average of a run."""

    def __init__(
        self,
        prepare: Preparation,
        parallel: Parallel,
        optim: OptimConfig,
        *,
        seed: int,
        precision: Precision,
    ) -> None:
        """Build the optimizer for the weights of ``prepare.objective``.

        Args:
            prepare: makes patches and masks; holds the objective.
            parallel: the processes of the run.
            optim: settings of the optimizer.
            seed: decides masks and dropout, together with the step.
            precision: of the matrix products.
        """
        objective = prepare.objective
        self.prepare, self.objective, self.parallel = prepare, objective, parallel
        self.optim, self.seed, self.dtype = optim, seed, DTYPES[precision]
        self.device = parallel.device
        # otherwise the device itself skips a bad update, so that the host need not wait for its loss
        self.checks_on_host = self.device.type == "cpu" or parallel.sharding == "fsdp"
        self.optimizer = make_optimizer(objective, optim, fused=parallel.sharding != "fsdp")
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=precision == "fp16")
        self.average = Average(objective.network, optim.ema_decay) if optim.ema_decay is not None else None
        self.forward: nn.Module = parallel.wrap(objective)
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._clips: dict[int, list[int | str]] = {}

    def update(self, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """Make one optimizer step with the micro-batches of this process.

        Returns:
            The losses and the norm of the gradient, left on the device.

        Raises:
            NonFiniteError: on a CPU before the update; on a GPU the update is skipped, and `check` raises.
        """
        seed_everything(self.seed * 1_000_003 + step, self.parallel.rank, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self._clips[step] = [clip for batch in batches for clip in batch.clips]
        losses: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else self.parallel.without_sync(self.forward):
                for name, value in self._accumulate(batch, step, len(batches)).items():
                    losses[name] = losses[name] + value if name in losses else value
        self.scaler.unscale_(self.optimizer)
        norm = full(nn.utils.clip_grad_norm_(self.objective.parameters(), self.optim.grad_norm))
        self._guard(losses["loss"], norm, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.objective.after_update(step)
        if self.average is not None:
            self.average.update()
        return {**losses, "grad_norm": norm}

    def warm_up(self, batch: Batch) -> None:
        """Run a micro-batch forward and backward and change nothing, so that what is to be compiled is compiled.

        Compiled code may depend on the shape that it meets first: a run that is resumed must be given the same one.
        """
        seed_everything(self.seed, 0, self.device)
        self.objective.normalise.eval()  # its running statistics stay
        patches, masks = self.prepare(batch, (self.seed, 0))
        self.objective.normalise.train()
        with self.arithmetic(), compiling(self.device):
            self.forward(patches, *masks, self.prepare.targets(batch))["loss"].backward()
        self.optimizer.zero_grad()

    def rate(self, step: int) -> float:
        """The learning rate of batch ``step``, counted from 0."""
        return learning_rate(step, self.optim)

    def _accumulate(self, batch: Batch, step: int, count: int) -> dict[str, Tensor]:
        """Add the gradients of one of ``count`` micro-batches; its share of the losses."""
        patches, masks = self.prepare(batch, (self.seed, step))
        targets = self.prepare.targets(batch)
        with self.arithmetic(), compiling(self.device):
            losses = self.forward(patches, *masks, targets)
            self.scaler.scale(losses["loss"] / count).backward()
        return {name: value.detach() / count for name, value in losses.items()}

    def arithmetic(self) -> contextlib.ExitStack:
        """A context with the run's precision, and the fastest attention for the few tokens of a masked crop."""
        stack = contextlib.ExitStack()
        if self.device.type == "cpu":  # torch's flash attention is slower there than plain products (1.18x)
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32))
        return stack

    def _guard(self, loss: Tensor, norm: Tensor, step: int) -> None:
        """Allow no update with a loss or gradient that is not finite, nor any update after it."""
        fp16 = self.scaler.is_enabled()  # its gradients may overflow, and the scaler skips such updates itself
        bad = ~loss.isfinite() if fp16 else ~(loss.isfinite() & norm.isfinite())
        flag = self.parallel.add(bad.float(), largest=True)
        if self.checks_on_host:
            if bool(flag):
                self._refuse(step)
            return
        self._bad_step.copy_(torch.where((flag > 0) & (self._bad_step < 0), step, self._bad_step))
        if not fp16:
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]

    def check(self) -> None:
        """Wait for the device; NonFiniteError if a batch since the last call had a loss that is not finite."""
        bad = -1 if self.checks_on_host else int(self._bad_step)
        if bad >= 0:
            self._refuse(bad)
        self._clips.clear()

    def _refuse(self, step: int) -> None:
        clips = self._clips.get(step, [])
        self._clips = {step: clips}
        raise NonFiniteError(step, clips)


def seed_everything(seed: int, rank: int, device: torch.device) -> None:
    """Seed torch's generators for a step, so that a resumed run draws the same numbers as an uninterrupted one.

    The CPU's generator is the same in all processes: it decides which layers layerdrop skips.
    """
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed + 7919 * rank)
