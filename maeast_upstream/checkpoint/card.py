"""Model cards in the form that the Hugging Face hub and its boards read: a YAML header, then Markdown.

The last line of a card holds a hash of what stands above it, so that a card that somebody has edited is known as such.
"""

import dataclasses
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.checkpoint.layout import CARD_NAME, CARD_NAMES
from maeast_upstream.checkpoint.projection import PROJECTION_NAME, Projection
from maeast_upstream.checks import check_number, printable, quote
from maeast_upstream.config import EncoderConfig, scene_width, step_width
from maeast_upstream.frontend import HOP_SAMPLES, LOW_HZ, SAMPLE_RATE, WINDOW_SAMPLES
from maeast_upstream.messages import DISTRIBUTION, shortened
from maeast_upstream.readout import describe
from maeast_upstream.storage.text import read_text

PAPER = "https://arxiv.org/abs/2203.16691"
TAGS = ("audio", "audio-embeddings", "mae-ast", "masked-autoencoder", "self-supervised-learning")
PIPELINE_TAG, TASK = "feature-extraction", "audio-classification"
"""The hub's names for what the model does, and for what its embeddings are scored on."""
IDENTIFIER = re.compile(r"[A-Za-z0-9][\w.+-]*(/[\w.-]+)?", re.ASCII)
"""A licence, language, tag or data set as the hub names it."""
MARKUP = re.compile(r"([\\`*_\[\]<>|~&$#!])")
"""Characters that Markdown or HTML would interpret."""
HEADER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
MAX_HEADER = 1 << 16
"""Longest header that is read, in characters: far more than the hub asks for, and little memory."""
MARK = re.compile(r"\n<!-- maeast-upstream wrote this card: ([0-9a-f]{64}) -->\n\Z")
GENERAL_LIMITS = f"""\
- Sound above {SAMPLE_RATE // 2000} kHz is not seen: audio is resampled to {SAMPLE_RATE // 1000} kHz.
- Clips of more than 60 s are encoded in windows of 10 s, so that a time step of them depends on 10 s at most.
- What the training data lack, the model has not learned: measure it on your own sounds before you rely on it.
- Biases were not measured; do not use the model to make decisions about people."""
CITATION = f"""\
```bibtex
@inproceedings{{baade2022maeast,
  title = {{{{MAE-AST}}: Masked Autoencoding Audio Spectrogram Transformer}},
  author = {{Baade, Alan and Peng, Puyuan and Harwath, David}},
  booktitle = {{Interspeech}},
  year = {{2022}},
  url = {{{PAPER}}}
}}
```"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What only the publisher of a checkpoint knows. Texts are Markdown and are not changed."""

    license: str = "unknown"
    """The licence of the weights by the hub's identifier, such as apache-2.0 or cc-by-4.0."""
    language: Sequence[str] = ()
    """ISO codes of the languages that were trained on, if speech was."""
    datasets: Sequence[str] = ()
    """Hub ids of the training data."""
    tags: Sequence[str] = ()
    """Further tags."""
    training_data: str = ""
    """A paragraph about the training data; empty for what the checkpoint's provenance says."""
    results: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Score by name of a labelled set."""
    metric: str = "accuracy"
    """What the scores are."""
    limits: str = ""
    """A paragraph that goes before the limits that all checkpoints have."""

    def __post_init__(self) -> None:
        for name in ("language", "datasets", "tags"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a list of identifiers, got the text {quote(getattr(self, name))}")
        for name in (self.license, *self.language, *self.datasets, *self.tags, self.metric):
            if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
                raise ValueError(f"a model card takes identifiers of the hub, such as apache-2.0, got {quote(name)}")
        for text in (self.training_data, self.limits, *self.results):
            if not isinstance(text, str):
                raise ValueError(f"training_data, limits and the names of results are text, got {quote(text)}")
        for name, score in self.results.items():
            check_number(f"the result on {quote(name)}", score)

    def header(self, name: str) -> dict[str, Any]:
        """Return the YAML header of a model called ``name``, without empty entries."""
        scores = [
            {
                "task": {"type": TASK},
                "dataset": {"name": printable(each), "type": re.sub(r"\W+", "-", each).strip("-").lower() or "set"},
                "metrics": [{"type": self.metric, "value": float(score)}],
            }
            for each, score in self.results.items()
        ]
        entries = {
            "license": self.license,
            "language": list(self.language),
            "library_name": DISTRIBUTION,
            "pipeline_tag": PIPELINE_TAG,
            "tags": list(dict.fromkeys([*TAGS, *self.tags])),
            "datasets": list(self.datasets),
            "metrics": [self.metric] if scores else [],
            "model-index": [{"name": name, "results": scores}] if scores else [],
        }
        return {key: value for key, value in entries.items() if value}


def write_card(
    config: EncoderConfig, parameters: int, name: str, card: Card | None = None, projection: Projection | None = None
) -> str:
    """Return the card of a checkpoint.

    Args:
        config: The content of its config.json, of which no text becomes markup.
        parameters: The number of weights of its encoder.
        name: What `maeast_upstream.load_model` is given to load it: a hub id or the name of a folder.
        card: What the publisher adds.
        projection: What the checkpoint stores for shorter vectors.
    """
    card = card or Card()
    name = printable(name)
    sections = [_training(config, card), _results(name, card), _limits(card), f"## Citation\n\n{CITATION}"]
    return marked(_compose(card.header(name), config, parameters, name, "\n\n".join(sections), projection))


def rewrite_card(
    text: str,
    config: EncoderConfig,
    parameters: int,
    name: str | None = None,
    projection: Projection | None = None,
) -> str:
    """Return a card with the sections that follow from the config written anew, unmarked; its training data stay.

    Args:
        text: The card of the same weights.
        config: As in `write_card`.
        parameters: As in `write_card`.
        name: As in `write_card`; None for the checkpoint in the package.
        projection: As in `write_card`.
    """
    header, body = read_card(text)
    name = None if name is None else printable(name)
    for model in header.get("model-index", []):
        model["name"] = name or model["name"]
    return _compose(header, config, parameters, name, body[body.index("## Training data") :].rstrip(), projection)


def _compose(
    header: Mapping[str, Any],
    config: EncoderConfig,
    parameters: int,
    name: str | None,
    rest: str,
    projection: Projection | None,
) -> str:
    """A card without a mark: header, title, the sections that follow from the config, and ``rest``."""
    import yaml

    front = yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True, width=120)
    title = "MAE-AST: the bundled checkpoint" if name is None else _plain(name)
    about = (
        f"An encoder of audio after [MAE-AST]({PAPER}) with {parameters / 1e6:.1f} M parameters: any sound becomes one "
        f"vector of {scene_width(config, config.readout):,} numbers, or a sequence of time steps."
    )
    parts = [f"# {title}", about, _usage(config, name), _front_end(config), _readout(config, projection), rest]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def marked(text: str) -> str:
    """Return a card with the mark by which `is_ours` knows it."""
    return f"{text}\n<!-- maeast-upstream wrote this card: {_hash(text)} -->\n"


def read_card(text: str) -> tuple[dict[str, Any], str]:
    """Return the header of a card, empty if it has none that can be read, and the text below it without the mark."""
    import yaml

    found = HEADER.match(text)
    body = MARK.sub("", text[found.end() :] if found else text)
    try:
        header = yaml.safe_load(found[1]) if found and len(found[1]) <= MAX_HEADER else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        header = {}
    return (header if isinstance(header, dict) else {}), body.lstrip("\n")


def header_of(path: Path) -> dict[str, Any]:
    """Return the header of the model card of a checkpoint's folder; empty without a card that can be read."""
    for card in [path / name for name in CARD_NAMES if path.is_dir() and (path / name).is_file()][:1]:
        try:
            return read_card(read_text(card))[0]
        except (OSError, ValueError):
            break
    return {}


def is_ours(path: Path) -> bool:
    """Whether a card is just as this package wrote it; a file that is no text is somebody's."""
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return False
    found = MARK.search(text)
    return found is not None and found[1] == _hash(text[: found.start()])


def keep_edited(folder: Path, part: Path) -> bool:
    """Copy the card of ``folder`` to ``part``, which will replace it, if somebody has edited or written it.

    Returns:
        Whether there was such a card.

    Raises:
        ValueError: It is a folder.
    """
    path = folder / CARD_NAME
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected the text of a model card, or nothing")
    if not (path.is_symlink() or path.exists()) or is_ours(path):
        return False
    shutil.copy2(path, part / CARD_NAME, follow_symlinks=False)
    return True


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(text: str, limit: int = 500) -> str:
    """A text from a file as one line of Markdown that shows it letter by letter."""
    return MARKUP.sub(r"\\\1", printable(shortened(text, limit)))


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _usage(config: EncoderConfig, name: str | None) -> str:
    width = scene_width(config, config.readout)
    given = "" if name is None else json.dumps(name, ensure_ascii=False)
    option = "" if name is None else f" --checkpoint {shlex.quote(name)}"
    return f"""## Usage

```python
from maeast_upstream import load_model  # pip install {DISTRIBUTION}

model = load_model({given})
vectors = model.embed(["one.wav", "two.flac"])  # or arrays or tensors at {SAMPLE_RATE // 1000} kHz: (2, {width})
steps = model.encode("one.wav", layers=model.num_layers).hidden_states[0]  # (1, time steps, dimensions)
```

```sh
maeast embed FOLDER -o embeddings.parquet{option}
```"""


def _front_end(config: EncoderConfig) -> str:
    front, norm, model = config.frontend, config.normalisation, config.model
    mean = "; the mean of each clip is removed first" if front.remove_mean else ""
    window = f"{1000 * WINDOW_SAMPLES // SAMPLE_RATE} ms ({front.window})"
    rows = {
        "audio": f"mono, {SAMPLE_RATE} Hz (`maeast_upstream` converts){mean}",
        "spectrogram": f"log mel, {front.num_mel_bins} bins from {LOW_HZ:.0f} Hz to {SAMPLE_RATE // 2} Hz, windows of "
        f"{window} every {1000 * HOP_SAMPLES // SAMPLE_RATE} ms",
        "normalization": f"(x - ({norm.mean:g})) / {norm.std:g} * {norm.scale:g}",
        "tokens": f"{model.patch_frames} frames x {model.patch_mels} mel bins; {model.mel_patches} per time step of "
        f"{model.patch_frames * 1000 * HOP_SAMPLES // SAMPLE_RATE} ms",
        "transformer": f"{model.depth} layers, width {model.embed_dim}, {model.num_heads} heads",
    }
    return f"## Front end\n\n{_table(rows)}"


def _readout(config: EncoderConfig, projection: Projection | None) -> str:
    readout = config.readout
    native = config.model.patch_frames * 1000 * HOP_SAMPLES / SAMPLE_RATE
    rows = {
        "layer": f"`{readout.layer}`",
        "mel patches of a time step": f"`{readout.mel}`",
        "pooled over time": f"`{readout.pool}`",
        "time steps every": f"{readout.hop_ms or native:g} ms",
        "dimensions": f"{step_width(config, readout):,} of a time step, {scene_width(config, readout.full):,} of a clip"
        + (", whitened" if readout.whiten else "")
        + (f", projected to {readout.dims}" if readout.dims else ""),
    }
    if projection is not None:
        most, which = projection.shape[0], projection.readout
        offers = []
        if projection.whitening:
            white = "whitened vectors, with `--whiten` or `Readout(whiten=True)`"
            offers = ["the whitening; `--no-whiten` leaves it out"] if readout.whiten else [white]
        if most:
            offers.append(f"vectors of N numbers, N from 1 to {most}, with `--dims N` or `Readout(dims=N)`")
        same = which == dataclasses.replace(readout, dims=None)
        where = "" if same else f", for the readout {_plain(describe(which))}"
        rows["projection"] = f"`{PROJECTION_NAME}`: {'; '.join(offers)}{where}"
    return f"## Readout\n\nWhat a vector is made of, unless `embed` is given another one:\n\n{_table(rows)}"


def _training(config: EncoderConfig, card: Card) -> str:
    provenance = config.provenance
    rows = {"optimizer steps": f"{provenance.steps:,}"} if provenance.steps else {}
    if provenance.parents:
        rows["started from"] = ", ".join(map(_origin, provenance.parents[:10]))
    if provenance.package:
        rows[f"version of {DISTRIBUTION}"] = _plain(provenance.package, 100)
    data = card.training_data or (f"Data: {_plain(provenance.data)}." if provenance.data else "It was not recorded.")
    return "## Training data\n\n" + data.strip() + (f"\n\n{_table(rows)}" if rows else "")


def _origin(parent: str) -> str:
    """A hub id or a name; of another path only its end, because the rest may name a machine and a person."""
    return _plain(parent if IDENTIFIER.fullmatch(parent) else Path(parent).name, 100)


def _results(name: str, card: Card) -> str:
    if not card.results:
        measure = f"maeast probe labels.csv --checkpoint {shlex.quote(name)}"
        return f"## Results\n\nNone were recorded. A linear probe on labelled clips:\n\n```sh\n{measure}\n```"
    rows = "\n".join(f"| {_plain(each)} | {score:g} |" for each, score in card.results.items())
    return f"## Results\n\n| set | {_plain(card.metric)} |\n|---|---|\n{rows}"


def _limits(card: Card) -> str:
    return "## Limits\n\n" + (f"{card.limits.strip()}\n\n" if card.limits else "") + GENERAL_LIMITS
