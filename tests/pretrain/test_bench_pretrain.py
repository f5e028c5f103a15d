"""The benchmark of the training step runs, on models too small to say anything."""

import bench_pretrain
import pytest
import torch
from small import small_config

from pretrain.training.build import build_objective, build_sampler

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    """Every size is a very small one, and clips are short."""
    monkeypatch.setattr(bench_pretrain, "preset", lambda size, **shape: small_config(**shape))
    monkeypatch.setattr(bench_pretrain, "SECONDS", 1.0)
    clips = bench_pretrain.waveforms
    monkeypatch.setattr(bench_pretrain, "waveforms", lambda count=2, seconds=1.0: clips(count, 1.0))


@pytest.mark.s3prl
def test_our_step_is_compared_with_the_published_one(small):
    rows = bench_pretrain.published(1, 2)
    assert [row[0].split(":")[0] for row in rows] == ["base, batch 2, fp32", "base, batch 2, bf16"] * 2
    assert all(float(measured) > 0 for _, measured, _ in rows[:2])
    assert all(measured.endswith(" %") for _, measured, _ in rows[2:])


def test_our_step_is_compared_with_ssast_and_lighter_decoders(small):
    (_, two, _), (_, one, _) = bench_pretrain.ssast("fp32", 1, 2)
    assert float(two) > 0
    assert float(one) > 0
    assert len(bench_pretrain.decoders("bf16", 1, 2)) == 3


def test_what_a_backward_pass_keeps_is_counted(small):
    own = bench_pretrain.recipe(small_config())
    one, two = (bench_pretrain.kept_bytes(own, batch) for batch in (2, 4))
    assert two == pytest.approx(2 * one, rel=0.1), "activations, not weights"
    rows = bench_pretrain.memory(2)
    assert all(0 < float(measured) < 1 for _, measured, _ in rows)


def test_a_compiled_step_is_compared_with_one_that_is_not(small, monkeypatch):
    monkeypatch.setattr(bench_pretrain, "compile_network", lambda *arguments: None)
    monkeypatch.setattr(bench_pretrain, "BATCH", 2)
    recipe = bench_pretrain.recipe(small_config())
    monkeypatch.setattr(bench_pretrain, "read_recipe", lambda arguments: recipe)
    rows = bench_pretrain.compiled(1)
    assert len(rows) == 4
    assert all(float(measured) >= 0 for _, measured, _ in rows)


def test_the_sweep_is_a_table_and_a_picture(small, tmp_path):
    rows = bench_pretrain.sweep(1, 2, tmp_path / "sweep.png")
    assert len(rows) == 9
    assert (tmp_path / "sweep.png").stat().st_size > 1000


@pytest.mark.s3prl
def test_the_published_loss_is_ours_on_the_same_prediction(small):
    """The clip by clip loop of the published criterion and our batched losses."""
    from published_step import published_loss

    own = bench_pretrain.recipe(small_config())
    torch.manual_seed(0)
    objective = build_objective(own, bench_pretrain.Normalisation()).eval()
    patches = torch.randn(3, 48, 256)
    visible, masked, _ = build_sampler(own).draw(3, 48, torch.Generator().manual_seed(0))
    prediction = objective.network.predict(patches, visible, masked)
    output = {
        "logit_m_list_recon": prediction.reconstruction,
        "logit_m_list_class": prediction.classification,
        "target_m_list": prediction.targets,
    }
    torch.testing.assert_close(published_loss(output), objective(patches, visible, masked)["loss"])
