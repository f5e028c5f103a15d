"""A decoded corpus of the repository's clips, and a recipe that trains on it in a second."""

from pathlib import Path

import pytest
from small import small_config

from pretrain.config import DataConfig, LossConfig, MaskConfig, OptimConfig, Recipe
from pretrain.data.packing import pack

AUDIO = Path(__file__).parents[1] / "data" / "audio"


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    pack(AUDIO, folder, workers=0)
    return folder


@pytest.fixture
def recipe(tmp_path, packed):
    return Recipe(
        out=str(tmp_path / "run"),
        precision="fp32",
        device="cpu",
        log_every=2,
        save_every=3,
        model=small_config(dropout=0.1, layerdrop=0.1),
        data=DataConfig(
            corpus=str(AUDIO),
            packed=str(packed),
            crop_seconds=0.5,
            batch_clips=4,
            workers=0,
            mix=True,
        ),
        masking=MaskConfig(chunk_share=0.5),
        losses=LossConfig(clip=1.0),
        optim=OptimConfig(lr=1e-3, steps=6, warmup_steps=2, decay_steps=2),
    )
