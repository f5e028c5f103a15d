"""A small sweep that several test files share."""

import dataclasses

import pytest
import yaml


@pytest.fixture
def settings(recipe, tmp_path):
    """A sweep of two variants and two seeds, of six batches each."""
    base = {**dataclasses.asdict(recipe), "tensorboard": False}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    return {
        "base": "base.yaml",
        "settings": {"masking.ratio": 0.5},
        "variants": {"joint": None, "no InfoNCE": {"losses.classification": 0.0}},
        "seeds": [0, 1],
    }


@pytest.fixture
def write(tmp_path):
    def write(settings):
        path = tmp_path / "losses.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    return write
