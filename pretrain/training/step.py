"""One update of the weights: parts of a batch in, new weights out, and no waiting for the device in between."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretrain.config import Recipe
from pretrain.data.batches import Batch
from pretrain.masking.padding import fit_masks, token_padding
from pretrain.objective import Objective
from pretrain.training.distributed import Parallel, full
from pretrain.training.optimizer import Average, learning_rate, make_optimizer

MASK_ROWS = {"cpu": 64, "cuda": 2048}
"""Masks are drawn for so many rows of the whole batch at once, so that a row's mask does not depend on how many
processes share the batch: on a CPU few, because a process draws those of others too; on a GPU many, because each draw
is some 50 kernels to start."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(Exception):
    """A loss or gradient became NaN or infinite."""

    def __init__(self, step: int, clips: list[int | str]) -> None:
        """At batch ``step`` (counted from 0), made of ``clips``."""
        super().__init__(step, clips)
        self.step, self.clips = step, clips


class Updater:
    """Weights, optimiser, loss scaler and moving average of a run."""

    def __init__(self, recipe: Recipe, objective: Objective, parallel: Parallel) -> None:
        self.recipe, self.objective, self.parallel = recipe, objective, parallel
        self.device = parallel.device
        # where a kernel can be told on the device to leave the weights alone, nobody has to ask the device
        self.asks = self.device.type == "cpu" or parallel.sharding == "fsdp"
        self.optimizer = make_optimizer(objective, recipe.optim, fused=parallel.sharding != "fsdp")
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        decay = recipe.optim.ema_decay
        self.average = Average(objective.network, decay) if decay is not None else None
        self.forward: nn.Module = parallel.wrap(objective)
        if recipe.compile:
            objective.compile()
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._seen: dict[int, list[int | str]] = {}

    def update(self, parts: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """One optimiser step on the parts of this process; losses and the gradient's norm, left on the device.

        Raises:
            NonFiniteError: on a CPU at once, before the update; on a GPU the update is left out and `check` raises.
        """
        seed_everything(self.recipe.seed * 1_000_003 + step, self.parallel.rank, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self._seen[step] = [clip for part in parts for clip in part.clips]
        losses: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else self.parallel.without_sync(self.forward):
                for name, value in self._part(part, step, len(parts)).items():
                    losses[name] = losses[name] + value if name in losses else value
        self.scaler.unscale_(self.optimizer)
        norm = full(nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.optim.grad_norm))
        self._guard(losses["loss"], norm, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        return {**losses, "grad_norm": norm}

    def rate(self, step: int) -> float:
        """The learning rate of batch ``step``, counted from 0."""
        return learning_rate(step, self.recipe.optim)

    def _part(self, part: Batch, step: int, parts: int) -> dict[str, Tensor]:
        patches, masks = prepare(self.objective, part, (self.recipe.seed, step), self.device)
        with self.arithmetic():
            losses = self.forward(patches, *masks)
            self.scaler.scale(losses["loss"] / parts).backward()
        return {name: value.detach() / parts for name, value in losses.items()}

    def arithmetic(self) -> contextlib.ExitStack:
        """Precision of the matrix products, and the attention that is fastest for the few tokens of a masked crop."""
        stack = contextlib.ExitStack()
        kind = DTYPES[self.recipe.precision]
        if self.device.type == "cpu":  # torch's flash attention is slower there than plain products (1.18x)
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(self.device.type, kind, enabled=kind != torch.float32))
        return stack

    def _guard(self, loss: Tensor, norm: Tensor, step: int) -> None:
        """No update with a loss or gradient that is not finite, nor any after it."""
        fp16 = self.scaler.is_enabled()  # there gradients may overflow; the scaler leaves such updates out by itself
        bad = ~loss.isfinite() if fp16 else ~(loss.isfinite() & norm.isfinite())
        flag = self.parallel.add(bad.float(), largest=True)
        if self.asks:
            if bool(flag):
                self._refuse(step)
            return
        self._bad_step.copy_(torch.where((flag > 0) & (self._bad_step < 0), step, self._bad_step))
        if not fp16:
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]

    def check(self) -> None:
        """Wait for the device; NonFiniteError if some batch since the last call was not to be used."""
        bad = -1 if self.asks else int(self._bad_step)
        if bad >= 0:
            self._refuse(bad)
        self._seen.clear()

    def _refuse(self, step: int) -> None:
        clips = self._seen.get(step, [])
        self._seen = {step: clips}
        raise NonFiniteError(step, clips)


def seed_everything(seed: int, rank: int, device: torch.device) -> None:
    """So that a resumed run draws what an uninterrupted one would.

    The CPU's generator is the same everywhere: it says which layers layerdrop skips, and all processes skip the same.
    """
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed + 7919 * rank)


def prepare(
    objective: Objective, part: Batch, key: tuple[int, int], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """A part's patches on the device, and the masks (with padding, where it may be) that `Objective.forward` takes."""
    waveforms = part.waveforms.to(device, non_blocking=True)
    passes = objective.recipe.passes
    if objective.recipe.data.short != "pad":
        patches = objective.patches(waveforms).repeat(passes, 1, 1)
        return patches, draw_masks(objective, patches, part, key)
    lengths = part.lengths.to(device, non_blocking=True)
    patches = objective.patches(waveforms, lengths).repeat(passes, 1, 1)
    padding = token_padding(lengths.repeat(passes), patches.shape[1], objective.recipe.model)
    visible, masked, noise = draw_masks(objective, patches, part, key, noise=True)
    return patches, [
        *fit_masks(visible, masked, padding, objective.recipe.masking.ratio, noise),
        padding,
    ]


def draw_masks(
    objective: Objective,
    patches: Tensor,
    part: Batch,
    key: tuple[int, int],
    noise: bool = False,
) -> list[Tensor]:
    """The masks of a part's rows: what `Objective.draw_batch` gives for the whole batch, cut to this part.

    With ``noise``, a uniform number for each token besides.
    """
    views, together = len(patches) // len(part.clips), MASK_ROWS.get(patches.device.type, MASK_ROWS["cpu"])
    clips = torch.arange(part.first, part.first + len(part.clips))
    rows = torch.cat([clips * views + view for view in range(views)])  # number of each row in the whole batch
    first, last = int(rows.min()) // together, int(rows.max()) // together
    blocks = []
    for block in range(first, last + 1):
        size = min(together, part.size * views - block * together)
        generator = torch.Generator(patches.device).manual_seed(hash_key(*key, block))
        masks = list(objective.draw_batch(patches[:1].expand(size, -1, -1), generator))
        if noise:
            masks.append(torch.rand(size, patches.shape[1], generator=generator, device=patches.device))
        blocks.append(masks)
    # through pinned memory, because the copy would else wait for the device
    own = rows - first * together
    own = own.pin_memory().to(patches.device, non_blocking=True) if patches.is_cuda else own
    return [torch.cat(masks)[own] for masks in zip(*blocks, strict=True)]


def hash_key(*numbers: int) -> int:
    """One seed of several numbers (Knuth's multiplicative hash)."""
    value = 0
    for number in numbers:
        value = (value * 2654435761 + number + 1) % (1 << 63)
    return value
