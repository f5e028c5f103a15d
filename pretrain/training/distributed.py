"""One process or many: which device, who writes, and how gradients meet. Started by torchrun or accelerate launch."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maeast_upstream.device import usable_device
from maeast_upstream.modules.transformer import TransformerBlock

if TYPE_CHECKING:
    from accelerate import Accelerator


class Parallel:
    """The processes of a run. Alone, everything here does nothing."""

    def __init__(self, device: str | None, sharding: str, skips_layers: bool = True) -> None:
        """Join the others, if the launcher started several.

        Args:
            device: cpu, cuda or cuda:N; None takes a GPU if there is one.
            sharding: ddp or fsdp.
            skips_layers: whether some weights get no gradient in some updates, for which DDP must look each time.

        Raises:
            ValueError: no such device.
            ImportError: several processes without accelerate.
        """
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.sharding = sharding if self.processes > 1 else "ddp"
        self.rank, self.device = 0, usable_device(device or "auto")
        self.accelerator: "Accelerator | None" = None  # noqa: UP037
        if self.processes == 1:
            return
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
        except ImportError as error:
            raise ImportError("several processes need accelerate: pip install 'maeast-upstream[pretrain]'") from error
        options = DistributedDataParallelKwargs(find_unused_parameters=skips_layers, gradient_as_bucket_view=True)
        self.accelerator = Accelerator(cpu=self.device.type == "cpu", kwargs_handlers=[options])
        self.rank, self.device = self.accelerator.process_index, self.accelerator.device
        self._control = dist.new_group(backend="gloo")

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process runs the body before the others."""
        if self.accelerator is None:
            yield
            return
        with self.accelerator.main_process_first():
            yield

    def shard(self, module: nn.Module) -> None:
        """With fsdp: leave each process its share of the weights, gathered layer by layer when they are needed."""
        if self.sharding == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for part in [m for m in module.modules() if isinstance(m, TransformerBlock)]:
                fully_shard(part)
            fully_shard(module)

    def wrap(self, module: nn.Module) -> nn.Module:
        """What to call in place of ``module``, so that gradients are averaged over the processes."""
        if self.accelerator is None or self.sharding == "fsdp":
            return module
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def without_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """For all parts of an accumulated batch but the last."""
        if self.accelerator is None or self.sharding == "fsdp":
            return contextlib.nullcontext()
        waiting: AbstractContextManager[Any] = self.accelerator.no_sync(wrapped)
        return waiting

    def add(self, value: Tensor, largest: bool = False) -> Tensor:
        """The sum over the processes, or the largest; on the device, nobody waits for it."""
        if self.processes > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process says so. Between hosts: no device waits for it."""
        if self.processes == 1:
            return flag
        told = torch.tensor(int(flag))
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._control)
        return bool(told)

    def wait(self) -> None:
        """Until all are here."""
        if self.processes > 1:
            dist.barrier(group=self._control)

    def close(self) -> None:
        """Leave the others."""
        if self.accelerator is not None:
            self.accelerator.end_training()
            if dist.is_initialized():
                dist.destroy_process_group()


def full(value: Tensor) -> Tensor:
    """A tensor whole, where fsdp left a share of it; all processes have to ask."""
    whole = getattr(value, "full_tensor", None)
    return whole() if whole is not None else value
