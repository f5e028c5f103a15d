"""`maeast embed --ray`: the parts of a run on the machines of a Ray cluster.

Each actor holds the model, decodes, embeds and writes whole parts; a part that is lost with its machine is given to
another. Inputs and output lie where every machine reaches them: a shared folder, or an address such as s3://.
"""

import contextlib
import logging
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from maeast_upstream.engines.selection import attach
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.parts import Part, Work, write_parts
from maeast_upstream.inference import Runtime

ANSWER_SECONDS = 5.0


class PartActor:
    """Embeds one part a call."""

    def __init__(self, work: Any, device: str) -> None:
        """``work`` refers to a `Work` in Ray's object store, its encoder on the CPU."""
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
        """A batch of one pickled part -> what became of it, or why it could not be written.

        A full disk is handed back, not raised: Ray would tell it as pages of tracebacks.
        """
        total = PartReport()
        try:
            write_parts([pickle.loads(part) for part in batch["part"]], self.work, total.add)
        except OSError as error:
            return {"outcome": [error]}
        return {"outcome": [total]}


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connected to a cluster: its address, "auto" for the one that this machine belongs to, "local" for one of its own.

    Raises:
        ValueError: ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install 'maeast-upstream[ray]'") from error
    _refuse_silence(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--ray {address}: no cluster there ({' '.join(str(error).split())[:120]})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_silence(address: str) -> None:
    """ValueError if nothing answers at HOST:PORT; Ray itself would try for minutes, then end the process."""
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"--ray {address}: no cluster there ({error})") from error


def write_parts_on_ray(parts: Iterable[Part], work: Work, progress: Callable[[PartReport], object]) -> None:
    """Embed the parts on all machines of the cluster that this process is connected to.

    Actors take one processor each, with one thread: the fastest way through many clips. Where the encoder is on a GPU
    they take a GPU each.

    Raises:
        OSError: a machine could not write a part; whole parts stay.
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
