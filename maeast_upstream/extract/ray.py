"""`maeast embed --ray`: the parts of a run on the machines of a Ray cluster.

Each actor holds the model, decodes, embeds and writes whole parts. A part that is lost with its machine goes to another
one. Every machine must be able to reach the inputs and the output: a shared folder, or an address such as s3://.
"""

import contextlib
import logging
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from maeast_upstream.display import without_secrets
from maeast_upstream.engines.selection import attach
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.parts import Part, Work, write_parts
from maeast_upstream.inference import Runtime
from maeast_upstream.messages import install_extra, shortened

ANSWER_SECONDS = 5.0
"""Time within which a cluster's address must answer."""


class PartActor:
    """Embeds one part per call."""

    def __init__(self, work: Any, device: str) -> None:
        """Fetch the model and attach its engine.

        Args:
            work: a reference to a `Work` in Ray's object store, its encoder on the CPU.
            device: where the encoder runs.
        """
        import ray

        torch.set_num_threads(1)
        self.work: Work = ray.get(work)
        encoder, choice = self.work.encoder.to(device), self.work.engine
        if choice is not None:
            attach(
                encoder,
                choice.engine,
                choice.precision,
                self.work.builder.spec.layers(encoder.num_layers),
            )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[PartReport | OSError]]:
        """Embed a batch of one pickled part.

        Returns:
            The part's report, or the OSError with which it failed: if it were raised, Ray would print pages of
            tracebacks.
        """
        total = PartReport()
        try:
            write_parts([pickle.loads(part) for part in batch["part"]], self.work, total.add)
        except OSError as error:
            return {"outcome": [error]}
        return {"outcome": [total]}


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A context with a connection to a cluster.

    Args:
        address: the cluster's; "auto" for the one that this machine belongs to, "local" for a new one on it.

    Raises:
        ValueError: ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"--ray needs Ray: {install_extra('ray')}") from error
    _check_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = without_secrets(shortened(error), address)
        raise ValueError(f"--ray {without_secrets(address)}: no cluster there ({reason})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answer(address: str) -> None:
    """ValueError if nothing answers at HOST:PORT; Ray itself would try for minutes and then end the process."""
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = without_secrets(str(error), address)
        raise ValueError(f"--ray {without_secrets(address)}: no cluster there ({reason})") from error


def write_parts_on_ray(parts: Iterable[Part], work: Work, progress: Callable[[PartReport], object]) -> None:
    """Embed the parts on all machines of the cluster that this process is connected to.

    Each actor uses one processor and one thread, which is fastest for many clips, or one GPU if the encoder is on one.

    Raises:
        OSError: a machine could not write a part; the parts that are written stay.
    """
    import ray.data

    items = [{"part": pickle.dumps(part)} for part in parts]
    if not items:
        return
    device = work.encoder.device.type
    kind = "GPU" if device == "cuda" else "CPU"
    most = max(1, int(ray.cluster_resources().get(kind, 1)))  # type: ignore[no-untyped-call]
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    encoder = work.encoder.cpu()
    encoder.use_runtime(Runtime(encoder.precision))  # compiled engines cannot be sent to other machines
    reports = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        PartActor,
        fn_constructor_args=[ray.put(work), device],
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(items))),
        num_cpus=1 if kind == "CPU" else None,
        num_gpus=1 if kind == "GPU" else None,
    )
    for row in reports.iter_rows():
        if isinstance(row["outcome"], OSError):
            raise row["outcome"]
        progress(row["outcome"])
