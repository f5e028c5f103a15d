"""Fine-tuning: augmentation, learning rates, resuming."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from labelled_clips import save_small_checkpoint, write_real_clips

from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.augment import SpecAugment, mix
from maeast_upstream.evaluation.classifier import FineTunedNetwork, load_encoder, one_hot
from maeast_upstream.evaluation.finetune import FineTuning
from maeast_upstream.evaluation.finetune_config import FinetuneConfig
from maeast_upstream.evaluation.labelled_set import read_labels


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("start") / "encoder")


@pytest.fixture(scope="module")
def drums(tmp_path_factory):
    path = tmp_path_factory.mktemp("drums") / "labels.csv"
    return write_real_clips(path, {"kick", "cymbal_crash", "snare"}.__contains__)


def encoder_of(start, **augment):
    return load_encoder(str(start), None, "fp32", None, SpecAugment(**augment))


def weights(folder):
    return load_model(folder).network.state_dict()


def test_killed_after_an_epoch_it_ends_with_the_same_bits(start, drums, tmp_path, monkeypatch):
    labelled_set = read_labels(drums)
    config = FinetuneConfig(checkpoint=str(start), epochs=2, mixup=0.5, mask_frames=20, mask_mels=20, batch_clips=6)
    whole = FineTuning(labelled_set, config, tmp_path / "whole", None).run()
    real = FineTuning._save

    def save_and_die(self):
        real(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuning, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        FineTuning(labelled_set, config, tmp_path / "killed", None).run()
    monkeypatch.setattr(FineTuning, "_save", real)
    again = FineTuning(labelled_set, config, tmp_path / "killed", None)
    assert again.epoch == 1
    assert again.run() == whole
    first, second = weights(tmp_path / "whole" / "encoder"), weights(tmp_path / "killed" / "encoder")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match=r"begun with lr 0.001, not 0.01: give another --out"):
        FineTuning(labelled_set, dataclasses.replace(config, lr=0.01), tmp_path / "killed", None)
    swapped = dataclasses.replace(
        labelled_set, labels=np.where(labelled_set.labels == "kick", "snare", labelled_set.labels)
    )
    swapped.labels[labelled_set.labels == "snare"] = "kick"
    with pytest.raises(ValueError, match="begun with labels"):
        FineTuning(swapped, config, tmp_path / "killed", None)


@pytest.mark.parametrize("content", [b"broken", b"", {}, torch.zeros(3), {"config": {}}])
def test_a_state_that_is_none_is_refused_by_name(start, drums, tmp_path, content):
    path = tmp_path / "state.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"state\.pt: not the state .* remove it to start again"):
        FineTuning(read_labels(drums), FinetuneConfig(checkpoint=str(start)), tmp_path, None)


def flipped(content):
    place = content.index(b"\x00\x00\x80?" * 4)  # weights of 1, of a norm
    return content[:place] + b"\x01" + content[place + 1 :]


def other_shape(content):
    state = torch.load(io.BytesIO(content), weights_only=True)
    state["model"] = {name: torch.zeros(1) for name in state["model"]}
    torch.save(state, file := io.BytesIO())
    return file.getvalue()


def test_a_state_with_a_flipped_bit_or_of_another_shape_is_refused(start, drums, tmp_path):
    config = FinetuneConfig(checkpoint=str(start), epochs=1)
    FineTuning(read_labels(drums), config, tmp_path, None).run()
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    for change, reason in ((flipped, "checksum"), (other_shape, "size mismatch")):
        path.write_bytes(change(whole))
        with pytest.raises(ValueError, match=rf"state\.pt: not the state .*{reason}.* remove it to start again"):
            FineTuning(read_labels(drums), config, tmp_path, None)


def test_weights_that_the_last_update_broke_are_not_kept(start, drums, tmp_path, monkeypatch):
    real = torch.optim.AdamW.step

    def step(self, *args):
        real(self, *args)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    config = FinetuneConfig(checkpoint=str(start), epochs=1, batch_clips=1000)
    with pytest.raises(ValueError, match="epoch 1: weights are NaN or infinite"):
        FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    assert not list((tmp_path / "run").iterdir())


def test_test_is_read_once_by_the_best_epoch(start, drums, tmp_path, monkeypatch):
    asked = []
    valid = iter([50.0, 80.0, 70.0])

    def accuracy(self, split):
        asked.append((split, self.epoch))
        return next(valid) if split == "valid" else 60.0

    monkeypatch.setattr(FineTuning, "accuracy", accuracy)
    config = FinetuneConfig(checkpoint=str(start), epochs=3)
    score = FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    assert (score.valid, score.test, score.epoch) == (80.0, 60.0, 2)
    assert [split for split, _ in asked] == ["valid", "valid", "valid", "test"]


def test_the_rates_fall_by_the_decay_from_layer_to_layer_and_the_decoder_has_none(start):
    model = FineTunedNetwork(encoder_of(start), 3, seed=0)
    groups = model.parameter_groups(lr=1.0, encoder_lr=0.8, layer_decay=0.5)
    assert [group["lr"] for group in groups] == [0.1, 0.2, 0.4, 0.8, 1.0]
    grouped = {id(p) for group in groups for p in group["params"]}
    inside = {name for name, p in model.named_parameters() if id(p) in grouped}
    assert not any("decoder" in name or "mask" in name or "_head" in name for name in inside)
    assert {name.split(".")[0] for name in inside} == {"encoder", "head"}


def test_a_rate_of_0_for_the_encoder_trains_the_head_only(start, drums, tmp_path):
    config = FinetuneConfig(checkpoint=str(start), epochs=1, encoder_lr=0.0)
    FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    before, after = weights(start), weights(tmp_path / "run" / "encoder")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_clip_s_scores_do_not_depend_on_its_batch(start, clips):
    model = FineTunedNetwork(encoder_of(start), 3, seed=0).eval()
    together = model(clips)
    assert torch.allclose(together, torch.cat([model([clip]) for clip in clips]), atol=1e-5)


def test_spectrograms_are_hidden_in_training_only_and_no_wider_than_asked(start, clips):
    encoder = encoder_of(start, frames=30, mels=20)
    fbank = encoder.fbank(clips[0][None])
    assert torch.equal(encoder.eval().patchify(fbank), encoder_of(start).eval().patchify(fbank))
    assert not torch.equal(encoder.train().patchify(fbank), encoder_of(start).patchify(fbank))
    generator = torch.Generator().manual_seed(0)
    hidden = SpecAugment(frames=30, mels=20).hidden(500, 100, 128, generator)
    frames, mels = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert (int(frames.min()), int(frames.max())) == (0, 30)
    assert (int(mels.min()), int(mels.max())) == (0, 20)
    assert hidden[:, 0].any()
    assert hidden[:, -1].any()
    assert not SpecAugment().hidden(4, 100, 128, generator).any()


def test_mixup_mixes_sound_and_shares_alike():
    clips = [torch.full((4,), 1.0), torch.full((3,), 2.0), torch.full((10,), 3.0)]
    targets = one_hot(torch.tensor([0, 1, 2]), 3)
    mixed, shares = mix(clips, targets, 0.5, torch.Generator().manual_seed(1))
    assert [len(clip) for clip in mixed] == [4, 3, 10]
    assert torch.allclose(shares.sum(dim=1), torch.ones(3))
    for clip, share in zip(mixed, shares, strict=True):
        assert torch.allclose(clip, (share * torch.tensor([1.0, 2.0, 3.0])).sum(), atol=1e-5)
    assert not torch.equal(shares, targets)
    same, unmixed = mix(clips, targets, 0.0, torch.Generator())
    assert all(a is b for a, b in zip(same, clips, strict=True))
    assert unmixed is targets


def test_positions_none_is_trained_and_kept_in_the_checkpoint(start, drums, tmp_path):
    config = FinetuneConfig(checkpoint=str(start), epochs=1, positions="none")
    FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    assert load_model(tmp_path / "run" / "encoder").config.model.positions == "none"
