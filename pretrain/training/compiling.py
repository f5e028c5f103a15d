"""torch.compile for the training step: whether it can be used, and which parts of the network it compiles.

On a CPU the transformer blocks are compiled one by one: blocks of one shape share their code, so that three pieces are
compiled, however deep the network is, and a step is as fast as with the whole objective compiled.
"""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import nn

from maeast_upstream.config import ModelConfig
from maeast_upstream.modules.transformer import TransformerBlock

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def compiling(device: torch.device) -> Iterator[None]:
    """A context in which torch may compile; ValueError, with the reason in one line, if it cannot."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"compile true: torch cannot compile this on {device} ({reason}); give compile false"
        ) from error


def check_compiler(device: torch.device) -> None:
    """ValueError if there is no compiler for a device; call it before long work, because the network comes late."""
    with compiling(device):
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))


def compiler_wanted(setting: bool | str, device: torch.device, model: ModelConfig) -> bool:
    """Whether the network is to be compiled: with auto, where it gains and torch finds a compiler.

    Args:
        setting: the recipe's ``compile``.
        device: where it trains.
        model: the network. With dropout in its blocks a compiled step on a CPU is slower: 0.65 of the clips per second
            (tiny, bf16, one thread of an AMD EPYC, family 25, model 17), because torch draws one float per value there.

    Raises:
        ValueError: the setting is true, and there is no compiler.
    """
    if setting != "auto":
        if setting:
            check_compiler(device)
        return bool(setting)
    dropout = model.dropout or model.attention_dropout or model.activation_dropout
    if dropout and device.type == "cpu":
        logger.info("trains without compiling: with dropout a compiled step is slower on a CPU")
        return False
    try:
        check_compiler(device)
    except ValueError as error:
        logger.info("trains without compiling: %s", str(error).removeprefix("compile true: ").partition(";")[0])
        return False
    return True


def compile_network(
    objective: nn.Module, device: torch.device, lengths_vary: bool, one_micro_batch: bool = False
) -> None:
    """Compile the objective in place, which leaves the names of its weights as they are.

    Args:
        objective: the network with its losses.
        device: where it trains; a GPU's whole objective is compiled, and on a CPU each transformer block.
        lengths_vary: whether batches differ in their number of clips and tokens. One code then serves all of them.
        one_micro_batch: whether one process makes each update with one micro-batch, without layerdrop. On a GPU the
            passes are then replayed as CUDA graphs, one for each shape, so that the host starts one graph in place of
            hundreds of kernels. Gradients that are added up, or shared, would be overwritten by the next replay.
    """
    if device.type != "cpu":
        objective.compile(dynamic=lengths_vary or None, mode="reduce-overhead" if one_micro_batch else None)
        return
    for block in objective.modules():
        if isinstance(block, TransformerBlock):
            block.compile(dynamic=lengths_vary)
