"""What each module of `maeast_upstream.modules.cpu` saves: CPU time without it over CPU time with it, in one process.

``python bench_cpu.py [ROUNDS]`` prints the rows. A training step is forward, backward and AdamW of the patch model on 2
clips of 10 s, 75 % masked, with the published dropout; one thread. Calls take turns, so that other load on the machine
hardly matters; `memory` cannot be undone in a process and is measured in processes that take turns.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F

from maeast_upstream.config import preset
from maeast_upstream.model import MaeAst
from maeast_upstream.modules import attention
from maeast_upstream.modules.cpu import dropout, linear, memory

CLIPS, TOKENS = 2, 496
PLAIN = {
    "linear": (linear, "convolution_is_faster", lambda: False),
    "attention": (
        attention,
        "attention",
        lambda q, k, v, mask, p: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p),
    ),
    "dropout": (dropout, "dropout", F.dropout),
}
"""What replaces each module: torch's own."""


@contextmanager
def without(name: str) -> Iterator[None]:
    """A context in which torch's own implementation replaces a module; "" for none."""
    if not name:
        yield
        return
    owner, attribute, plain = PLAIN[name]
    with patch.object(owner, attribute, plain):
        yield


def training_step(size: str) -> Callable[[], None]:
    """A step on seeded noise."""
    torch.manual_seed(0)
    network = MaeAst(preset(size, dropout=0.1, attention_dropout=0.1, input_dropout=0.1, layerdrop=0.0)).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    patches = 0.5 * torch.randn(CLIPS, TOKENS, network.config.patch_dim)
    order = torch.rand(CLIPS, TOKENS).argsort(1)
    visible, masked = order[:, : TOKENS // 4], order[:, TOKENS // 4 :]

    def step() -> None:
        optimizer.zero_grad()
        prediction = network.predict(patches, visible, masked)
        loss = F.mse_loss(prediction.reconstruction, prediction.targets) + prediction.classification.square().mean()
        loss.backward()
        optimizer.step()

    return step


def features(size: str) -> Callable[[], None]:
    """All tokens of the clips through the frozen encoder."""
    torch.manual_seed(0)
    network = MaeAst(preset(size)).eval()
    patches = 0.5 * torch.randn(CLIPS, TOKENS, network.config.patch_dim)

    @torch.no_grad()
    def run() -> None:
        network.features(patches, layers=[network.config.depth])

    return run


def cpu_seconds(work: Callable[[], None], name: str = "") -> float:
    """CPU time of one call without a module."""
    with without(name):
        start = time.process_time()
        work()
        return time.process_time() - start


def measure(work: Callable[[], None], names: list[str], rounds: int) -> dict[str, list[float]]:
    """CPU time without each module over CPU time with all of them, round by round."""
    ratios: dict[str, list[float]] = {name: [] for name in names}
    cpu_seconds(work)
    for _ in range(rounds):
        for name in names:
            plain, ours = cpu_seconds(work, name), cpu_seconds(work)
            ratios[name].append(plain / ours)
    return ratios


def memory_ratios(size: str, rounds: int) -> list[float]:
    """CPU time of three steps with glibc's own settings over that with `memory`, in processes that take turns."""
    seconds: dict[str, list[float]] = {"plain": [], "keep": []}
    for _ in range(rounds):
        for kind, values in seconds.items():
            command = [sys.executable, __file__, "steps", size, kind]
            values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return [plain / keep for plain, keep in zip(seconds["plain"], seconds["keep"], strict=True)]


def report(what: str, ratios: list[float]) -> None:
    """Print a row."""
    print(f"{what}: {statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main() -> None:
    """All rows, or the steps of one process."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["steps"]:
        if sys.argv[3] == "keep":
            memory.keep_freed_memory()
        step = training_step(sys.argv[2])
        step()
        print(sum(cpu_seconds(step) for _ in range(3)))
        return
    rounds = int(sys.argv[1]) if sys.argv[1:] else 7
    for size in ("tiny", "base"):
        for name, ratios in measure(features(size), ["linear"], rounds).items():
            report(f"{size}, features, without {name}", ratios)
        for name, ratios in measure(training_step(size), list(PLAIN), rounds).items():
            report(f"{size}, training step, without {name}", ratios)
        report(f"{size}, training step, without memory", memory_ratios(size, rounds))


if __name__ == "__main__":
    main()
