"""An encoder as the input module of sentence-transformers: ``SentenceTransformer(modules=[MaeAstModule()])``."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.checkpoint import CONFIG_NAME, PROJECTION_NAME, WEIGHTS_NAME, save_folder
from maeast_upstream.checks import quote
from maeast_upstream.config import scene_width
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.extract.api import clip_of
from maeast_upstream.messages import install_extra
from maeast_upstream.readout import Readout, checked_readout

try:
    from sentence_transformers.base.modality_types import Modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    message = f"sentence-transformers 5.4 or newer cannot be imported ({error})"
    raise ImportError(f"{message}: {install_extra('sentence-transformers')}", name=error.name) from error

CLIPS = "input_values"
"""The key of the clips between `preprocess` and `forward`; the trainer of sentence-transformers finds audio by it."""


class MaeAstModule(InputModule):
    """Turns audio into scene embeddings inside a `SentenceTransformer`."""

    def __init__(self, encoder: Encoder | str | Path | None = None, readout: Readout | None = None) -> None:
        """Take an encoder, or load one.

        Args:
            encoder: An encoder; or a checkpoint as for `load_model`, None for the one in the package.
            readout: Layers, mel axis, pooling, hop and dims; None for the checkpoint's own.

        Raises:
            ValueError: As `load_model`, or the readout is none of this encoder.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.encoder = encoder if isinstance(encoder, Encoder) else load_model(encoder)
        self.readout = checked_readout(readout, self.encoder.config.readout)
        self.encoder.check_readout(self.readout)

    @property
    def modalities(self) -> list[Modality]:
        """Audio; to sentence-transformers the path of an .opus file is "text", and files of several kinds "message"."""
        return ["audio", "text", "message"]

    def get_embedding_dimension(self) -> int:
        """Return E, the length of a scene embedding."""
        return scene_width(self.encoder.config, self.readout)

    def get_config_dict(self) -> dict[str, Any]:
        """Return what distinguishes this module from others, for its repr."""
        return {**self.readout.to_dict(), "precision": self.encoder.precision}

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Read, check and resample recordings.

        Args:
            inputs: For each clip the path of a file, (S,) samples at 16 kHz, or a mapping or decoder, see
                `maeast_upstream.extract.api.clip_of`.
            prompt: None or empty: a sound has no prompt.

        Returns:
            Under "input_values" one (S_i,) float32 tensor at 16 kHz for each clip.

        Raises:
            ValueError: A recording cannot be read, or it cannot be meant as audio; or there is a prompt.
        """
        if prompt:
            raise ValueError(f"an encoder of audio takes no prompts, got {quote(prompt)}: leave it out")
        return {CLIPS: [clip_of(item, f"clip {number}") for number, item in enumerate(inputs)], "modality": "audio"}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add "sentence_embedding", (B, E) float32, to what `preprocess` returned."""
        return {**features, "sentence_embedding": self.encoder(features[CLIPS], readout=self.readout)}

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Write a checkpoint, its readout included, into an existing folder, which `load_model` can then read, too.

        Raises:
            ValueError: Pickled weights are asked for.
        """
        if not safe_serialization:
            raise ValueError("weights are saved as safetensors only: leave safe_serialization=False out")
        config = dataclasses.replace(self.encoder.config, readout=self.readout)
        with tempfile.TemporaryDirectory(dir=output_path) as folder:
            saved = Path(folder) / "checkpoint"
            save_folder(saved, self.encoder.network, config, projection=self.encoder.projection)
            (Path(output_path) / PROJECTION_NAME).unlink(missing_ok=True)  # an earlier one, of other weights
            for path in saved.iterdir():
                os.replace(path, Path(output_path) / path.name)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **options: Any,
    ) -> "MaeAstModule":
        """Load what `save` wrote; sentence-transformers calls it.

        Args:
            model_name_or_path: A folder or a hub repository.
            subfolder: The module's folder in it.
            token: For the hub.
            cache_folder: Where the hub's files are kept.
            revision: Of the repository.
            local_files_only: Whether nothing may be downloaded.
            init_defaults: Unused.
            options: Among others ``model_kwargs``, further arguments of `load_model` such as ``precision``.

        Raises:
            ValueError: There is no checkpoint of this model.
        """
        place = (subfolder, token, cache_folder, revision, local_files_only)
        paths = {name: cls.load_file_path(model_name_or_path, name, *place) for name in (WEIGHTS_NAME, CONFIG_NAME)}
        cls.load_file_path(model_name_or_path, PROJECTION_NAME, *place)  # from a hub it comes to the others' folder
        for name, path in paths.items():
            if path is None:
                raise ValueError(f"{model_name_or_path}: not a saved MaeAstModule: no {name} in it")
        return cls(load_model(Path(paths[CONFIG_NAME] or "").parent, **(options.get("model_kwargs") or {})))
