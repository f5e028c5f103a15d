import dataclasses
import re

import pytest
import torch

from maeast_upstream import load_model
from maeast_upstream.cli import run
from pretrain.average import main


@pytest.fixture
def runs(make_encoder, tmp_path):
    """Three checkpoints of a network, as runs that began with the same weights leave them."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for number, folder in enumerate(folders):
        encoder = make_encoder()
        provenance = dataclasses.replace(encoder.config.provenance, steps=10 + number, data=f"corpus {min(number, 1)}")
        encoder.config = dataclasses.replace(encoder.config, provenance=provenance)
        with torch.no_grad():
            for value in encoder.network.parameters():
                value += number**2 * torch.ones_like(value)
        encoder.save_pretrained(folder)
    return [str(folder) for folder in folders]


def test_the_weights_of_a_mean_are_the_means_of_the_weights(runs, tmp_path, capsys):
    assert main([*runs, "-o", str(tmp_path / "mean")]) == 0
    assert "the mean of 3 checkpoints" in capsys.readouterr().out
    encoders = [load_model(run) for run in runs]
    mean = load_model(tmp_path / "mean")
    for name, value in mean.network.state_dict().items():
        parts = [encoder.network.state_dict()[name].double() for encoder in encoders]
        torch.testing.assert_close(value.double(), sum(parts) / 3, rtol=0, atol=1e-6)
    assert mean.config.provenance.parents == runs
    assert mean.config.provenance.steps == 10 + 11 + 12
    assert mean.config.provenance.data == "corpus 0; corpus 1"
    assert mean.config.readout == encoders[0].config.readout


def test_the_order_of_the_checkpoints_does_not_change_the_weights(runs, tmp_path):
    main([*runs, "-o", str(tmp_path / "a")])
    main([*runs[::-1], "-o", str(tmp_path / "b")])
    first, second = (load_model(tmp_path / name).network.state_dict() for name in "ab")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": "frame"}, "has another model than "),
        ({"shape": {"depth": 2}}, "has another model than "),
    ],
)
def test_another_network_is_refused(runs, make_encoder, tmp_path, change, message):
    make_encoder(**change).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        main([runs[0], str(tmp_path / "other"), "-o", str(tmp_path / "mean")])
    assert not (tmp_path / "mean").exists()


def test_one_checkpoint_has_no_mean(runs, tmp_path):
    with pytest.raises(ValueError, match="at least two checkpoints, got 1"):
        main([runs[0], "-o", str(tmp_path / "mean")])


def test_only_a_checkpoint_is_replaced_and_only_by_force(runs, tmp_path, capsys):
    mean, mine = tmp_path / "mean", tmp_path / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("mine")
    assert run(main, [*runs, "-o", str(mine), "--force"]) == 1
    assert re.search("mine: exists and is no checkpoint folder; give another name", capsys.readouterr().err)
    assert (mine / "precious.txt").read_text() == "mine"
    main([*runs[:2], "-o", str(mean)])
    assert run(main, [*runs, "-o", str(mean)]) == 1
    assert re.search("mean.* exists.* --force", capsys.readouterr().err)
    assert load_model(mean).config.provenance.parents == runs[:2]
    main([*runs, "-o", str(mean), "--force", "--half"])
    weights = load_model(mean).network.state_dict()
    assert all(torch.equal(value, value.half().float()) for value in weights.values())
    assert load_model(mean).config.provenance.parents == runs
