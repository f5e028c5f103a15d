"""The processes of a run (torchrun or accelerate launch): their devices, and how they share gradients and weights."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maeast_upstream.device import usable_device
from maeast_upstream.messages import install_extra
from maeast_upstream.modules.transformer import TransformerBlock

if TYPE_CHECKING:
    from accelerate import Accelerator


PATIENCE = datetime.timedelta(days=30)
"""How long processes wait for the first one, which may decode a corpus, save or probe meanwhile. That a process has
ended is noticed at once, and that it hangs in an update by the time limit of the gradients' own group."""


class Parallel:
    """The processes of a run. With one process, every method does nothing."""

    def __init__(self, device: str | None, sharding: str, skips_layers: bool = True) -> None:
        """Connect the processes, if the launcher started several.

        Args:
            device: cpu, cuda or cuda:N; None uses a GPU if there is one.
            sharding: ddp or fsdp.
            skips_layers: whether some weights may get no gradient in an update, for which DDP must search each time.

        Raises:
            ValueError: the device does not exist.
            ImportError: there are several processes, and accelerate is not installed.
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
            raise ImportError(f"several processes need accelerate: {install_extra('pretrain')}") from error
        options = DistributedDataParallelKwargs(find_unused_parameters=skips_layers, gradient_as_bucket_view=True)
        self.accelerator = Accelerator(cpu=self.device.type == "cpu", kwargs_handlers=[options])
        self.rank, self.device = self.accelerator.process_index, self.accelerator.device
        self._control: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process runs the body before the others, which wait however long that takes.

        Raises:
            ValueError: in the others, the first process failed; its own error says why.
        """
        failed = True
        try:
            if not self.is_main and self._first_failed(False):
                raise ValueError("the first process could not open the corpus or the run; its own line says why")
            yield
            failed = False
        finally:
            if self.is_main:
                self._first_failed(failed)

    def _first_failed(self, failed: bool) -> bool:
        """What the first process says about itself; all processes must call it."""
        if self.processes == 1:
            return failed
        flag = torch.tensor(int(failed))
        try:
            dist.broadcast(flag, 0, group=self._control)
        except RuntimeError as error:
            raise OSError("another process of the run has ended; its own line says why") from error
        return bool(flag)

    def shard(self, module: nn.Module) -> None:
        """With fsdp, leave each process its share of the weights; layers are gathered when they are needed."""
        if self.sharding == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for part in [m for m in module.modules() if isinstance(m, TransformerBlock)]:
                fully_shard(part)
            fully_shard(module)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call instead of ``module``, so that gradients are averaged over the processes."""
        if self.accelerator is None or self.sharding == "fsdp":
            return module
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def without_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """A context that keeps gradients local, for all micro-batches of an update except the last."""
        if self.accelerator is None or self.sharding == "fsdp":
            return contextlib.nullcontext()
        waiting: AbstractContextManager[Any] = self.accelerator.no_sync(wrapped)
        return waiting

    def add(self, value: Tensor, largest: bool = False) -> Tensor:
        """The sum over the processes, or the largest value; stays on the device, and the host does not wait for it."""
        if self.processes > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process. The hosts exchange it without their devices."""
        if self.processes == 1:
            return flag
        largest = torch.tensor(int(flag))
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._control)
        return bool(largest)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.processes > 1:
            dist.barrier(group=self._control)

    def close(self) -> None:
        """Disconnect from the other processes."""
        if self.accelerator is not None:
            self.accelerator.end_training()
            if dist.is_initialized():
                dist.destroy_process_group()


def full(value: Tensor) -> Tensor:
    """The whole of a tensor of which fsdp left a share; all processes must call it."""
    gather = getattr(value, "full_tensor", None)
    return gather() if gather is not None else value
