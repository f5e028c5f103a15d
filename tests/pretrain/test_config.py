import dataclasses
import math
from typing import get_args

import pytest
from small import small_config

from maeast_upstream.frontend import FrontendConfig
from pretrain.config import DataConfig, LossConfig, MaskConfig, OptimConfig
from pretrain.recipe import Recipe

NO_DECODER = small_config(decoder_depth=0)
VIEWS = LossConfig(clip=1.0, clip_views="masks")


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        (
            DataConfig,
            {"crop_seconds": 0.1},
            "crop_seconds must be 0.2 to 3600, got 0.1",
        ),
        (DataConfig, {"crop_seconds": float("nan")}, "crop_seconds must be a finite number, got nan"),
        (DataConfig, {"max_crop_seconds": 1e9}, "crop_seconds must be 0.2 to 3600, got 10.0 to 1000000000.0"),
        (
            DataConfig,
            {"max_crop_seconds": 1.0},
            "max_crop_seconds 1.0 is below crop_seconds 10.0",
        ),
        (DataConfig, {"batch_clips": 1}, "batch_clips must be at least 2, got 1"),
        (DataConfig, {"min_gain_db": 3.0}, "min_gain_db 3.0 is above max_gain_db 0.0"),
        (DataConfig, {"workers": -1}, "workers must be at least 0, got -1"),
        (MaskConfig, {"ratio": 1.0}, "ratio must lie between 0 and 1, got 1.0"),
        (MaskConfig, {"chunk_share": 1.5}, "chunk_share must lie in 0..1, got 1.5"),
        (MaskConfig, {"span_share": -0.5}, "span_share must lie in 0..1, got -0.5"),
        (
            MaskConfig,
            {"chunk_share": 0.75, "inverse_share": 0.5},
            r"more than 1: chunk_share 0.75 \+ inverse_share 0.5",
        ),
        (MaskConfig, {"spans_official_probability": 0.0}, "spans_official_probability must lie in 0.01..10, got 0.0"),
        (
            MaskConfig,
            {"spans_official_probability": 1.45, "chunk_share": 0.5},
            "spans_official_probability masks all clips; drop it, or chunk_share 0.5",
        ),
        (
            Recipe,
            {"masking": MaskConfig(spans_official_probability=1.45)},
            "spans_official_probability is for frame tokens",
        ),
        (
            Recipe,
            {
                "masking": MaskConfig(spans_official_probability=1.45),
                "model": small_config("frame"),
                "data": DataConfig(short_clips="pad"),
            },
            "spans_official_probability and data.short_clips pad do not go together",
        ),
        (LossConfig, {"clip": -1.0}, "must not be negative"),
        (
            LossConfig,
            {"reconstruction": 0.0, "classification": 0.0},
            "at least one loss weight",
        ),
        (
            LossConfig,
            {"clip_temperature": 0.0},
            "clip_temperature must be above 0, got 0.0",
        ),
        (LossConfig, {"temperature": 0.0}, "temperature must be above 0"),
        (LossConfig, {"masked_share": 0.0}, r"masked_share must lie in \(0, 1\], got 0.0"),
        (LossConfig, {"clip_views": "masks"}, "clip_views masks .* but clip is 0"),
        (
            LossConfig,
            {"clip": 1.0, "reconstruction": 0.0, "classification": 0.0, "masked_share": 0.5},
            "masked_share 0.5 .* but reconstruction, classification, latent and cluster are 0",
        ),
        (
            Recipe,
            {"objective": "ssast"},
            "objective ssast has no decoder, but model.decoder_depth is 2",
        ),
        (
            Recipe,
            {"objective": "ssast", "model": NO_DECODER, "losses": LossConfig(clip=1.0)},
            "objective ssast and losses.clip 1.0 do not go together",
        ),
        (
            Recipe,
            {"objective": "ssast_two_pass", "model": NO_DECODER, "losses": LossConfig(classification=0.0)},
            "losses.reconstruction is 10.0 and losses.classification 0.0: give objective ssast",
        ),
        (Recipe, {"model": NO_DECODER}, "need a decoder, but model.decoder_depth is 0"),
        (
            Recipe,
            {"losses": VIEWS, "masking": MaskConfig(ratio=0.4)},
            "losses.clip_views masks .* masking.ratio 0.4 leaves more than half",
        ),
        (LossConfig, {"latent": -1.0}, "must not be negative"),
        (LossConfig, {"latent_layers": 0}, "latent_layers must be at least 1, got 0"),
        (
            LossConfig,
            {"latent_decay": 0.99995},
            r"latent_decay 0.99995 and latent_end_decay 0.9999 must lie in \[0, 1\), the second not below the first",
        ),
        (LossConfig, {"latent_end_decay": 1.0}, "latent_end_decay 1.0 must lie in"),
        (
            Recipe,
            {"objective": "ssast", "model": NO_DECODER, "losses": LossConfig(latent=1.0)},
            "objective ssast and losses.latent 1.0 do not go together: give losses.latent 0",
        ),
        (
            Recipe,
            {"model": NO_DECODER, "losses": LossConfig(reconstruction=0.0, classification=0.0, latent=1.0)},
            "losses.latent 1.0 needs a decoder, but model.decoder_depth is 0",
        ),
        (LossConfig, {"cluster": -1.0}, "must not be negative"),
        (LossConfig, {"cluster_dim": 0}, "cluster_dim must be at least 1, got 0"),
        (LossConfig, {"cluster_temperature": 0.0}, "cluster_temperature must be above 0, got 0.0"),
        (
            Recipe,
            {"losses": LossConfig(cluster=1.0)},
            "losses.cluster 1.0 needs targets: give --clusters a folder that python -m pretrain.targets wrote",
        ),
        (
            Recipe,
            {
                "clusters": "c",
                "losses": LossConfig(reconstruction=0.0, classification=0.0, cluster=1.0),
                "data": DataConfig(validation="v"),
            },
            "data.validation needs losses.reconstruction, classification, clip or latent",
        ),
        (Recipe, {"clusters": "folder"}, "clusters folder .* but losses.cluster is 0"),
        (
            Recipe,
            {"clusters": "c", "objective": "ssast", "model": NO_DECODER, "losses": LossConfig(cluster=1.0)},
            "objective ssast and losses.cluster 1.0 do not go together: give losses.cluster 0",
        ),
        (
            Recipe,
            {
                "clusters": "c",
                "model": NO_DECODER,
                "losses": LossConfig(reconstruction=0.0, classification=0.0, cluster=1.0),
            },
            "losses.cluster 1.0 needs a decoder, but model.decoder_depth is 0",
        ),
        (
            Recipe,
            {"model": small_config(), "losses": LossConfig(latent=1.0, latent_layers=4)},
            "losses.latent_layers 4 is more than model.depth 3",
        ),
        (OptimConfig, {"lr": 0.0}, "lr must be above 0, got 0.0"),
        (OptimConfig, {"warmup_steps": -1}, "must not be negative"),
        (
            OptimConfig,
            {"steps": 100},
            "warmup_steps 32000 and decay_steps 518000 are more than steps 100",
        ),
        (OptimConfig, {"warmup_from_zero": True, "warmup_steps": 0}, "warmup_from_zero .* but warmup_steps is 0"),
        (OptimConfig, {"grad_norm": 0.0}, "grad_norm must be above 0"),
        (OptimConfig, {"beta2": 1.0}, r"beta2 must lie in \[0, 1\)"),
        (DataConfig, {"length_buckets": 0}, "length_buckets must be at least 1"),
        (
            DataConfig,
            {"max_bad_share": 1.0},
            r"max_bad_share must lie in \[0, 1\), got 1.0",
        ),
        (
            DataConfig,
            {"pack": False, "packed": "here"},
            "packed here .* but pack is false",
        ),
        (
            DataConfig,
            {"short_clips": "pad", "join_with": "kind"},
            "join_with kind needs short_clips join, got pad",
        ),
        (OptimConfig, {"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
        (
            OptimConfig,
            {"ema_decay": 1.0},
            "ema_decay must lie between 0 and 1, got 1.0",
        ),
        (
            OptimConfig,
            {"decay": "cosine", "decay_power": 2.0},
            "decay cosine has no decay_power, got 2.0",
        ),
        (Recipe, {"log_every": 0}, "log_every must be at least 1, got 0"),
        (Recipe, {"keep_last": 0}, "keep_last must be at least 1, got 0"),
        (
            Recipe,
            {"precision": "fp16", "device": "cpu"},
            "precision fp16 and device cpu do not go together",
        ),
        (
            Recipe,
            {"precision": "fp16", "sharding": "fsdp"},
            "precision fp16 and sharding fsdp do not go together",
        ),
        (Recipe, {"max_minutes": 0.0}, "max_minutes must be above 0"),
        (
            Recipe,
            {"frontend": FrontendConfig(num_mel_bins=64)},
            "num_mel_bins 128 is not the front end's 64",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(section, settings, message):
    with pytest.raises(ValueError, match=message):
        section(**settings)


def test_crops_must_hold_tokens_to_mask():
    frame = small_config("frame", patch_frames=20)
    data = DataConfig(crop_seconds=0.3)
    with pytest.raises(
        ValueError,
        match=r"crop_seconds 0\.3 gives 1 tokens, of which masking\.ratio 0\.75 leaves none",
    ):
        Recipe(model=frame, data=data)
    assert Recipe(model=frame, data=dataclasses.replace(data, crop_seconds=0.5))


SECTIONS = (Recipe, DataConfig, MaskConfig, LossConfig, OptimConfig)
NUMBERS = [
    (section, field.name, float not in kinds)
    for section in SECTIONS
    for field in dataclasses.fields(section)
    for kinds in [get_args(field.type) or (field.type,)]
    if {int, float} & set(kinds)
]


@pytest.mark.parametrize(("section", "name", "whole"), NUMBERS)
def test_no_number_of_a_recipe_is_nan_or_infinite_or_endless_or_a_truth_value(section, name, whole):
    for value in (math.nan, math.inf, -math.inf, True, 10**400, "1", *([1.5] if whole else [])):
        with pytest.raises(ValueError, match=name):
            section(**{name: value})


ABSURD = [
    (Recipe, {"seed": -1}),
    (Recipe, {"seed": 2**62}),
    (DataConfig, {"workers": 10**6}),
    (DataConfig, {"batch_clips": 10**9}),
    (DataConfig, {"max_gain_db": 1e300}),
    (DataConfig, {"kind_power": 1e300}),
    (LossConfig, {"reconstruction": 1e300}),
    (LossConfig, {"clip_dim": 10**9}),
    (OptimConfig, {"steps": 10**18}),
    (OptimConfig, {"decay_power": 1e300}),
]


@pytest.mark.parametrize(("section", "settings"), ABSURD)
def test_a_number_that_no_run_needs_is_refused_by_name(section, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        section(**settings)


def test_padding_goes_with_every_view_share_and_crop_length():
    data = DataConfig(short_clips="pad", max_crop_seconds=20.0)
    for losses in (VIEWS, LossConfig(masked_share=0.5), LossConfig(clip=1.0)):
        assert Recipe(data=data, losses=losses).data.padded
