"""What MTEB's boards show of a checkpoint, from its config and its model card."""

import datetime
from pathlib import Path
from typing import Any, get_args

from mteb.models import ModelMeta
from mteb.types import Licenses

from maeast_upstream.checkpoint.card import CITATION, PAPER, header_of
from maeast_upstream.checkpoint.download import FILES
from maeast_upstream.checkpoint.layout import encoder_size
from maeast_upstream.checkpoint.places import BUNDLED_NAME, HUB_ID, resolve
from maeast_upstream.config import scene_width
from maeast_upstream.encoder import Encoder
from maeast_upstream.messages import DISTRIBUTION

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a number, by precision."""
ALL: dict[str, Any] = {
    "loader": None,
    "languages": None,
    "max_tokens": float("inf"),
    "n_embedding_parameters": 0,
    "open_weights": True,
    "framework": ["PyTorch", "safetensors"],
    "similarity_fn_name": "cosine",
    "use_instructions": False,
    "modalities": ["audio"],
    "model_type": ["dense"],
    "citation": CITATION.removeprefix("```bibtex\n").removesuffix("\n```"),
}
"""What does not depend on the checkpoint."""
OURS: dict[str, Any] = {
    "public_training_code": f"the package pretrain of {DISTRIBUTION}",
    "public_training_data": True,
    "training_datasets": set(),
    "reference": PAPER,
}
"""Of the checkpoint in the package: its audio is that of Debian packages, in none of MTEB's tasks."""
PUBLISHED: dict[str, Any] = {
    "public_training_code": "https://github.com/AlanBaade/MAE-AST-Public",
    "public_training_data": "https://research.google.com/audioset, https://www.openslr.org/12",
    "training_datasets": {
        *("AudioSet", "AudioSetMini", "AudioSetStrongA2TRetrieval", "AudioSetStrongT2ARetrieval"),
        *("AudioCapsA2TRetrieval", "AudioCapsT2ARetrieval", "MusicCapsA2TRetrieval", "MusicCapsT2ARetrieval"),
        *("LibriSpeechSpeakerA2ARetrieval", "LibriTTSA2TRetrieval", "LibriTTST2ARetrieval", "LibriCount"),
    },
    "languages": ["eng-Latn"],
    "release_date": "2022-03-30",
    "reference": PAPER,
}
"""Of the paper's checkpoints, trained on AudioSet and LibriSpeech; the date is the paper's. Tasks with other cuts or
captions of these recordings count as trained on."""
UNKNOWN: dict[str, Any] = {"public_training_code": None, "public_training_data": None, "training_datasets": None}


def model_meta(model: Encoder, source: str | None, revision: str) -> ModelMeta:
    """Describe an encoder.

    Args:
        model: the encoder.
        source: what it was loaded from, see `maeast_upstream.load_model`.
        revision: under which MTEB keeps its results.
    """
    size = encoder_size({name: value.numel() for name, value in model.network.state_dict().items()})
    header = header_of(resolve(source))
    facts = OURS if source in (None, BUNDLED_NAME) else PUBLISHED if source in FILES else UNKNOWN
    on_hub = source is not None and HUB_ID.fullmatch(source) and not Path(source).exists()
    date = header.get("release_date")
    release_date = str(date) if isinstance(date, str | datetime.date) else None
    place = {"reference": f"https://huggingface.co/{source}"} if on_hub else {}
    return ModelMeta(
        name=source if on_hub else f"mae-ast/{BUNDLED_NAME if source is None else Path(source).stem}",
        revision=revision,
        n_parameters=size,
        memory_usage_mb=round(size * BYTES[model.precision] / 2**20, 1),
        embed_dim=scene_width(model.config, model.config.readout),
        output_dtypes=None,
        **{**ALL, "license": license_of(header), "release_date": release_date, **facts, **place},
    )


def license_of(header: dict[str, Any]) -> str:
    """Return the licence of a model card by MTEB's name for it; "not specified" for one that MTEB does not know."""
    known = next(get_args(part) for part in (Licenses, *get_args(Licenses)) if "mit" in get_args(part))
    name = header.get("license")
    return name.lower() if isinstance(name, str) and name.lower() in known else "not specified"
