import pytest
import torch

from maeast_upstream.readout import Readout, combine_layers, describe, fold_mel, pool_time


def test_mel_patches_of_an_instant_are_neighbours():
    tokens = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    concatenated = fold_mel(tokens, 2, "concat")
    assert concatenated.shape == (2, 3, 6)
    assert torch.equal(concatenated[1, 2], torch.cat([tokens[1, 4], tokens[1, 5]]))
    averaged = fold_mel(tokens, 2, "mean")
    assert averaged.shape == (2, 3, 3)
    assert torch.equal(averaged[1, 2], (tokens[1, 4] + tokens[1, 5]) / 2)


def test_frame_tokens_are_time_steps_already():
    tokens = torch.randn(2, 6, 3)
    assert torch.equal(fold_mel(tokens, 1, "concat"), tokens)
    assert torch.equal(fold_mel(tokens, 1, "mean"), tokens)


def test_layers_asked_for_and_how_they_are_combined():
    assert Readout(layer=3).layers(12) == [3]
    assert Readout(layer="last").layers(12) == [12]
    assert Readout(layer="mean").layers(3) == [1, 2, 3]
    assert Readout(layer="all").layers(3) == [1, 2, 3]
    states = [torch.full((1, 2, 3), float(value)) for value in (1, 2, 6)]
    assert torch.equal(combine_layers(states, "mean"), torch.full((1, 2, 3), 3.0))
    assert combine_layers(states, "all").shape == (1, 2, 9)
    assert combine_layers(states, "all")[0, 0].tolist() == [1, 1, 1, 2, 2, 2, 6, 6, 6]
    assert torch.equal(combine_layers(states[-1:], "last"), states[-1])
    assert torch.equal(combine_layers(states[1:2], 2), states[1])


@pytest.mark.parametrize("pool", ["mean", "mean_max", "mean_std"])
def test_pooling_looks_at_a_clips_own_steps_only(pool):
    steps = torch.randn(3, 7, 4)
    lengths = torch.tensor([7, 4, 1])
    past = torch.arange(7) >= lengths[:, None]
    pooled = pool_time(steps.masked_fill(past[..., None], torch.nan), lengths, pool)
    for row, length in enumerate(lengths.tolist()):
        own = steps[row, :length]
        expected = [own.mean(0)]
        if pool == "mean_max":
            expected.append(own.amax(0))
        if pool == "mean_std":
            expected.append(own.std(0, correction=0))
        torch.testing.assert_close(pooled[row], torch.cat(expected), atol=1e-6, rtol=1e-5)


def test_the_deviation_of_a_steady_sound_is_0_and_large_values_do_not_spoil_it():
    steps = 1000 + torch.tensor([[[0.0], [0.1]]])
    assert pool_time(torch.ones(1, 5, 2), torch.tensor([5]), "mean_std")[0, 2:].tolist() == [0.0, 0.0]
    assert pool_time(steps, torch.tensor([2]), "mean_std")[0, 1] == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"layer": "first"},
            "layer must be a number from 1, last, mean or all, got 'first'",
        ),
        ({"layer": 0}, "layers are counted from 1, got layer 0"),
        ({"layer": 2.5}, "layer must be a number from 1, last, mean or all, got 2.5"),
        ({"layer": True}, "layer must be a number from 1, last, mean or all, got True"),
        ({"mel": "sum"}, "mel must be concat or mean, got 'sum'"),
        ({"pool": "max"}, "pool must be mean, mean_max or mean_std, got 'max'"),
    ],
)
def test_impossible_readouts_are_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        Readout(**setting)


def test_without_dims_a_readout_is_stored_as_before_there_were_any():
    assert Readout().to_dict() == {"layer": "last", "mel": "concat", "pool": "mean", "hop_ms": None}
    assert Readout(dims=8).to_dict()["dims"] == 8
    assert Readout(**Readout(dims=8).to_dict()) == Readout(dims=8)
    assert describe(Readout(dims=8)) == "layer last, mel concat, pool mean, hop native, dims 8"


def test_dims_are_the_own_readout_s_only():
    own = Readout(layer="mean", dims=8)
    assert Readout(layer="mean").with_projection_of(own) == own
    assert Readout(layer="mean", dims=9).with_projection_of(own) == own
    assert Readout(layer=3, dims=9).with_projection_of(own) == Readout(layer=3)


@pytest.mark.parametrize("dims", [0, -1, 513, True, 2.0, "8"])
def test_dims_out_of_range_are_refused(dims):
    with pytest.raises(ValueError, match="dims"):
        Readout(dims=dims)
