"""A model for MTEB: ``python -m hear_api.mteb BeijingOpera``, or ``mteb.evaluate(MaeAstEncoder(), tasks)``."""

import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from maeast_upstream import __version__, load_model
from maeast_upstream.arguments import Parser, add_model_options
from maeast_upstream.audio.reading import from_samples
from maeast_upstream.cli import ExitStatus
from maeast_upstream.extract.api import clip_of
from maeast_upstream.fingerprint import results_key
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.messages import counted, install_extra, shortened

try:
    from mteb.models.abs_encoder import AbsEncoder

    from hear_api.mteb_metadata import model_meta
except ImportError as error:
    message = f"MTEB cannot be imported ({error}): {install_extra('mteb')}"
    if __name__ == "__main__":
        sys.exit(f"error: {message}")
    raise ImportError(message, name=error.name) from error

MAEB = "MAEB(v1, audio-only)"
"""MTEB's board of audio without text."""


class MaeAstEncoder(AbsEncoder):  # type: ignore[misc]
    """Gives scene embeddings to MTEB's tasks."""

    def __init__(
        self,
        model_name: str | None = None,
        revision: str | None = None,
        *,
        device: str | None = None,
        precision: Any = None,
    ) -> None:
        """Load a model.

        Args:
            model_name: a checkpoint as for `maeast_upstream.load_model`; None for the bundled one.
            revision: ignored; MTEB stores results under a digest of the weights, the readout and the precision.
            device: None for CUDA if it is available, otherwise the CPU.
            precision: fp32, bf16 or fp16.
        """
        decode_without_ffmpeg()
        self.model = load_model(model_name, device or "auto", precision)
        digest = results_key(self.model, precision=self.model.precision)
        self.mteb_model_meta = model_meta(self.model, model_name, f"{__version__}-{digest[:12]}")

    def encode(self, inputs: Any, **_: Any) -> Tensor:
        """Embed the clips of a DataLoader.

        Args:
            inputs: batches with a list of dictionaries under "audio": ``array``, (samples,) or (channels, samples),
                and its ``sampling_rate``. A clip without samples counts as silence.

        Returns:
            (clips, dimensions) float32 on the CPU.
        """
        return torch.cat([self.model.embed([waveform(item) for item in batch["audio"]]).cpu() for batch in inputs])


def decode_without_ffmpeg() -> None:
    """Let this package decode the audio of `datasets` where torchcodec, which that needs, finds no FFmpeg."""
    from datasets import Audio

    tiny = io.BytesIO()
    soundfile.write(tiny, np.zeros(16, np.float32), SAMPLE_RATE, format="WAV")
    try:
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(tiny.getvalue())
    except (ImportError, OSError, RuntimeError):
        Audio.decode_example = decode_example


def decode_example(_: Any, value: Any, *__: Any, **___: Any) -> Any:
    """Do in place of the method of `datasets.Audio`: give ``array`` and ``sampling_rate`` of an audio file."""
    if not (isinstance(value, dict) and "array" not in value):
        return value
    return {"array": clip_of(value, str(value.get("path") or "a recording")).numpy(), "sampling_rate": SAMPLE_RATE}


def waveform(item: Any) -> Tensor:
    """Convert one of MTEB's recordings to (S,) mono samples at 16 kHz."""
    samples = np.asarray(item["array"], dtype=np.float32)
    if samples.size == 0:
        return torch.zeros(1)
    return torch.from_numpy(from_samples(samples.T if samples.ndim == 2 else samples, int(item["sampling_rate"])))


def find_tasks(names: Iterable[str]) -> list[Any]:
    """Return MTEB's tasks of these names, which may also be those of boards; what needs more than audio is left out.

    Raises:
        ValueError: MTEB has no such task or board, or none of them is of audio alone.
    """
    import mteb

    found: dict[str, Any] = {}
    for name in names:
        try:
            tasks = mteb.get_benchmark(name).tasks
        except KeyError:
            try:
                tasks = mteb.get_tasks(tasks=[name])
            except KeyError as error:
                raise ValueError(f"MTEB's tasks: {str(error.args[0]).removeprefix('KeyError: ')}") from error
        found |= {task.metadata.name: task for task in tasks}
    audio = [task for task in found.values() if list(task.metadata.modalities) == ["audio"]]
    if not audio:
        raise ValueError(f"none of MTEB's {', '.join(names)} is of audio alone: expected such as {MAEB}")
    if left := [name for name, task in found.items() if task not in audio]:
        text = shortened(", ".join(left))
        print(f"{counted(len(left), 'task')} left out, which need more than audio: {text}", file=sys.stderr)
    return audio


def show(results: Sequence[Any], kinds: dict[str, str]) -> None:
    """Print scores in per cent, and of several tasks the means that MTEB's boards show.

    Args:
        results: MTEB's results of tasks.
        kinds: the type of each task by its name.
    """
    width = max(len(result.task_name) for result in results)
    scores = {result.task_name: 100 * result.get_score() for result in results}
    for name, score in scores.items():
        print(f"{name:<{width}}  {score:5.1f}  {kinds[name]}")
    if len(scores) > 1:
        of_kinds = {kind: [scores[name] for name in scores if kinds[name] == kind] for kind in sorted(kinds.values())}
        by_kind = [float(np.mean(values)) for values in of_kinds.values() if values]
        print(f"{'mean of tasks':<{width}}  {np.mean(list(scores.values())):5.1f}")
        print(f"{'mean of types':<{width}}  {np.mean(by_kind):5.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint on MTEB's audio tasks."""
    parser = Parser(prog="python -m hear_api.mteb", description=main.__doc__)
    parser.add_argument("tasks", nargs="+", help=f'names of MTEB\'s tasks or boards, such as BeijingOpera or "{MAEB}"')
    add_model_options(parser)
    help_text = "where MTEB keeps its results, and what it does not run again; default: ~/.cache/mteb"
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help=help_text)
    args = parser.parse_args(argv)
    tasks = find_tasks(args.tasks)
    model = MaeAstEncoder(args.checkpoint, device=args.device, precision=args.precision)
    return run_tasks(model, tasks, args.out)


def run_tasks(model: MaeAstEncoder, tasks: Sequence[Any], folder: Path | None = None) -> ExitStatus:
    """Run tasks one after the other, print their scores, and name those that fail.

    Args:
        model: what is scored.
        tasks: MTEB's tasks.
        folder: where MTEB keeps results; None for its own place.
    """
    import mteb

    done = mteb.evaluate(model, tasks, raise_error=False, cache=mteb.ResultCache(folder))
    for failure in done.exceptions or ():
        print(f"error: {failure.task_name}: {shortened(failure.exception)}", file=sys.stderr)
    if not done.task_results:
        return ExitStatus.FAILED
    show(done.task_results, {task.metadata.name: str(task.metadata.type) for task in tasks})
    return ExitStatus.PARTIAL if done.exceptions else ExitStatus.DONE


if __name__ == "__main__":
    from maeast_upstream.cli import run

    raise SystemExit(run(main))
