"""Fine-tuning: the beginning, augmentation, learning rates, frozen layers, resuming."""

import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_clips import save_small_checkpoint, write_real_clips, write_tones
from projections import projection_of, whitening_of

from maeast_upstream.checkpoint import CARD_NAME
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.augment import SpecAugment, mix
from maeast_upstream.evaluation.classifier import FineTunedNetwork, load_encoder, one_hot
from maeast_upstream.evaluation.features import embeddings
from maeast_upstream.evaluation.finetune import FineTuning
from maeast_upstream.evaluation.finetune_config import FinetuneConfig
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.evaluation.linear_probe import fit_probe
from maeast_upstream.fingerprint import load_same
from maeast_upstream.readout import Readout

RICH = {"layer": "mean", "mel": "concat", "pool": "mean_max", "hop_ms": "40"}
"""The readout of the checkpoint in the package, as options."""


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


def begun(start, labels, folder, **settings):
    """A fine-tuning before its first epoch, with the probe's head."""
    tuning = FineTuning(read_labels(labels), FinetuneConfig(checkpoint=str(start), **settings), folder, None)
    tuning.folder.mkdir()
    loss, tuning.start_valid = tuning._fit_head()
    tuning._keep_if_better(loss, tuning.start_valid)
    return tuning


def encoder_weights(tuning):
    return {name: value.clone() for name, value in tuning.model.encoder.network.state_dict().items()}


def test_it_begins_with_the_probe(start, drums, tmp_path):
    labelled_set, readout = read_labels(drums), Readout(layer="mean", pool="mean_max", hop_ms=40.0)
    features = embeddings(labelled_set.paths, load_model(start), [readout])[readout]
    probe = fit_probe(features, labelled_set.labels, labelled_set.splits)
    tuning = begun(start, drums, tmp_path / "run", **RICH)
    assert (tuning.model.readout, tuning.c, tuning.start_valid) == (readout, probe.c, pytest.approx(probe.valid))
    np.testing.assert_allclose(tuning._logits("valid").numpy(), probe.valid_logits, atol=2e-3)


def test_of_two_classes_it_begins_with_the_probe_too(start, tmp_path):
    labels = write_tones(tmp_path)
    labelled_set, readout = read_labels(labels), Readout()
    features = embeddings(labelled_set.paths, load_model(start), [readout])[readout]
    probe = fit_probe(features, labelled_set.labels, labelled_set.splits)
    logits = begun(start, labels, tmp_path / "run")._logits("valid").numpy()
    np.testing.assert_allclose(logits, probe.valid_logits, atol=2e-3)


@pytest.mark.parametrize("folds", [0, 2])
def test_what_harms_is_not_kept(start, drums, tmp_path, folds):
    config = FinetuneConfig(checkpoint=str(start), epochs=2, patience=0, folds=folds, encoder_lr=0.3, lr=0.3)
    score = FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    assert (score.epoch, score.valid) == (0, score.start)
    before, after = weights(start), weights(tmp_path / "run" / "encoder")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "fine-tuned" not in (tmp_path / "run" / "encoder" / CARD_NAME).read_text()


def test_it_stops_after_epochs_without_a_better_one(start, drums, tmp_path, monkeypatch):
    valid = iter([40.0, 50.0, 50.0, 30.0])
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda *_: next(valid, 0.0))
    config = FinetuneConfig(checkpoint=str(start), epochs=9, patience=2)
    tuning = FineTuning(read_labels(drums), config, tmp_path / "run", None)
    score = tuning.run()
    assert (tuning.epoch, score.epoch, score.valid, score.start) == (3, 1, 50.0, 40.0)
    assert next(valid, None) is None


@pytest.mark.parametrize("lora", [0, 2])
def test_frozen_layers_keep_their_bits_and_the_others_learn(start, drums, tmp_path, lora):
    tuning = begun(start, drums, tmp_path / "run", freeze=2, lora=lora, encoder_lr=1e-3)
    before = weights(start)
    tuning._epoch()
    tuning.model.merge()
    after = encoder_weights(tuning)
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("encoder.blocks.2.") for name in changed)
    if lora:
        assert changed == {
            f"encoder.blocks.2.{name}.weight" for name in ("attention.qkv", "attention.out", "fc1", "fc2")
        }


def test_with_all_layers_frozen_no_graph_of_the_encoder_is_recorded(start, drums, tmp_path, clips):
    tuning = begun(start, drums, tmp_path / "run", freeze=3)
    assert not tuning.model.train().vectors(clips).requires_grad
    assert begun(start, drums, tmp_path / "other", freeze=2).model.train().vectors(clips).requires_grad


def test_after_an_epoch_with_folds_the_head_is_the_probe_of_the_new_encoder(start, drums, tmp_path, monkeypatch):
    real = FineTuning._accuracy_of
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda self, *rest: real(self, *rest) if self.best else 0.0)
    config = FinetuneConfig(checkpoint=str(start), epochs=1, encoder_lr=1e-3)
    tuning = FineTuning(read_labels(drums), config, tmp_path / "run", None)
    assert tuning.run().epoch == 1
    labelled_set = tuning.labelled_set
    card = (tmp_path / "run" / "encoder" / CARD_NAME).read_text()
    count = int((labelled_set.splits == "train").sum())
    assert f"Data: fine-tuned on {count} labelled clips of {labelled_set.name}" in card
    assert f"| started from | {Path(start).name} |" in card
    assert f"| {labelled_set.name}, test | " in card
    features = embeddings(labelled_set.paths, load_model(tmp_path / "run" / "encoder"), [Readout()])[Readout()]
    probe = fit_probe(features, labelled_set.labels, labelled_set.splits)
    np.testing.assert_allclose(tuning._logits("valid").numpy(), probe.valid_logits, atol=2e-3)


def test_it_stops_where_all_valid_clips_are_right(start, drums, tmp_path, monkeypatch):
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda *_: 100.0)
    config = FinetuneConfig(checkpoint=str(start), epochs=3)
    tuning = FineTuning(read_labels(drums), config, tmp_path / "run", None)
    assert (tuning.run().epoch, tuning.epoch) == (0, 0)


def test_merged_adapters_compute_what_they_did_before(start, drums, tmp_path):
    tuning = begun(start, drums, tmp_path / "run", lora=4, encoder_lr=1e-2)
    beginning = tuning._logits("valid")
    tuning._epoch()
    adapted = tuning._logits("valid")
    tuning.model.merge()
    assert (adapted - beginning).abs().max() > 1e-2
    torch.testing.assert_close(tuning._logits("valid"), adapted, atol=1e-4, rtol=1e-4)


def test_with_adapters_an_ordinary_checkpoint_is_left(start, drums, tmp_path, monkeypatch):
    real = FineTuning._accuracy_of
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda self, *rest: real(self, *rest) if self.best else 0.0)
    config = FinetuneConfig(checkpoint=str(start), epochs=1, lora=2)
    assert FineTuning(read_labels(drums), config, tmp_path / "run", None).run().epoch == 1
    before, after = weights(start), weights(tmp_path / "run" / "encoder")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert list(before) == list(after)


@pytest.mark.parametrize("dims", ["12", "full"])
def test_the_projection_of_the_readout_stays_with_the_encoder(start, drums, tmp_path, monkeypatch, dims):
    encoder = load_model(start)
    encoder.use_projection(projection_of(encoder.config, dims=20))
    encoder.save_pretrained(tmp_path / "projected")
    real = FineTuning._accuracy_of
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda self, *rest: real(self, *rest) if self.best else 0.0)
    config = FinetuneConfig(checkpoint=str(tmp_path / "projected"), epochs=1, dims=dims)
    tuning = FineTuning(read_labels(drums), config, tmp_path / "run", None)
    assert tuning.run().epoch == 1
    classifier = Classifier.load(tmp_path / "run")
    assert classifier.readout == Readout(dims=None if dims == "full" else 12)
    tuned = load_same(classifier.checkpoint, classifier.fingerprint)
    assert (tuned.projection is None) == (dims == "full")
    vectors = tuned.embed_readouts(tuning.clips["valid"][0], [classifier.readout])[0]
    np.testing.assert_allclose(classifier.logits(vectors.numpy()), tuning._logits("valid").numpy(), atol=1e-4)


def test_a_whitened_readout_is_tuned_and_stays(start, drums, tmp_path, monkeypatch):
    encoder = load_model(start)
    encoder.use_projection(whitening_of(encoder.config))
    encoder.config = dataclasses.replace(encoder.config, readout=Readout(whiten=True))
    encoder.save_pretrained(tmp_path / "white")
    real = FineTuning._accuracy_of
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda self, *rest: real(self, *rest) if self.best else 0.0)
    tuning = FineTuning(
        read_labels(drums), FinetuneConfig(checkpoint=str(tmp_path / "white"), epochs=1), tmp_path / "run", None
    )
    assert tuning.run().epoch == 1
    classifier = Classifier.load(tmp_path / "run")
    assert classifier.readout == Readout(whiten=True)
    tuned = load_same(classifier.checkpoint, classifier.fingerprint)
    assert np.array_equal(tuned.projection.whitening.groups, encoder.projection.whitening.groups)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": 4}, "freeze must be at most 3, the layers of the model, got 4"),
        ({"lora": 33}, "lora must be at most 32, the width of the model, got 33"),
        ({"layer": "4"}, "layers are counted from 1 to 3"),
        ({"hop_ms": "10"}, "got hop_ms 10"),
        ({"dims": "12"}, "dims"),
    ],
)
def test_what_the_model_does_not_have_is_refused(start, drums, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        FineTuning(read_labels(drums), FinetuneConfig(checkpoint=str(start), **settings), tmp_path, None)


def test_train_clips_that_are_all_the_same_are_refused(start, tmp_path):
    labels = write_tones(tmp_path)
    for number in range(1, 24):
        shutil.copy(tmp_path / "0.wav", tmp_path / f"{number}.wav")
    with pytest.raises(ValueError, match="all train clips have the same vector"):
        begun(start, labels, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "killed_at"), [({"folds": 0}, 0), ({"folds": 0, "lora": 2}, 1), ({}, 1)])
def test_killed_after_an_epoch_it_ends_with_the_same_bits(start, drums, tmp_path, monkeypatch, settings, killed_at):
    labelled_set = read_labels(drums)
    augmentation = {"mixup": 0.5, "mask_frames": 20, "mask_mels": 20}
    rates = {"encoder_lr": 1e-3, "lr": 1e-3}
    config = FinetuneConfig(
        checkpoint=str(start), epochs=2, patience=0, batch_clips=6, **settings, **augmentation, **rates
    )
    whole = FineTuning(labelled_set, config, tmp_path / "whole", None)
    score = whole.run()
    real = FineTuning._save

    def save_and_die(self):
        real(self)
        if self.epoch == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(FineTuning, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        FineTuning(labelled_set, config, tmp_path / "killed", None).run()
    monkeypatch.setattr(FineTuning, "_save", real)
    again = FineTuning(labelled_set, config, tmp_path / "killed", None)
    assert again.epoch == killed_at
    assert again.run() == score
    ends = [torch.load(tmp_path / name / "state.pt", weights_only=True)["model"] for name in ("whole", "killed")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    first, second = weights(tmp_path / "whole" / "encoder"), weights(tmp_path / "killed" / "encoder")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_settings_or_labels_than_it_was_begun_with_are_refused(start, drums, tmp_path):
    tuning = begun(start, drums, tmp_path / "run")
    config, labelled_set = tuning.config, tuning.labelled_set
    for settings, reason in (({"lr": 0.01}, "lr 1e-05, not 0.01"), ({"freeze": 1}, "freeze 0, not 1")):
        with pytest.raises(ValueError, match=rf"begun with {reason}: give another --out"):
            FineTuning(labelled_set, dataclasses.replace(config, **settings), tmp_path / "run", None)
    swapped = dataclasses.replace(
        labelled_set, labels=np.where(labelled_set.labels == "kick", "snare", labelled_set.labels)
    )
    swapped.labels[labelled_set.labels == "snare"] = "kick"
    with pytest.raises(ValueError, match="begun with labels"):
        FineTuning(swapped, config, tmp_path / "run", None)


def test_a_state_of_an_earlier_version_is_refused(start, drums, tmp_path):
    names = ("settings", "model", "optimizer", "epoch", "best_epoch", "best_valid", "best")
    torch.save({name: {} for name in names}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: .*an earlier version began it.*; remove it to start again"):
        FineTuning(read_labels(drums), FinetuneConfig(checkpoint=str(start)), tmp_path, None)


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
    config = begun(start, drums, tmp_path / "run").config
    path = tmp_path / "run" / "state.pt"
    whole = path.read_bytes()
    for change, reason in ((flipped, "checksum"), (other_shape, "size mismatch")):
        path.write_bytes(change(whole))
        with pytest.raises(ValueError, match=rf"state\.pt: not the state .*{reason}.* remove it to start again"):
            FineTuning(read_labels(drums), config, tmp_path / "run", None)


def test_weights_that_the_last_update_broke_are_not_kept(start, drums, tmp_path, monkeypatch):
    real = torch.optim.AdamW.step

    def step(self, *args):
        real(self, *args)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    config = FinetuneConfig(checkpoint=str(start), epochs=1, patience=0, batch_clips=1000)
    with pytest.raises(ValueError, match="epoch 1: weights are NaN or infinite"):
        FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["epoch"] == 0
    assert all(value.isfinite().all() for value in state["model"].values())


def test_test_is_read_once_by_the_best_epoch(start, drums, tmp_path, monkeypatch):
    asked = []
    valid = iter([40.0, 50.0, 80.0, 70.0])

    def accuracy(self, logits, split):
        asked.append((split, self.epoch))
        return next(valid) if split == "valid" else 60.0

    monkeypatch.setattr(FineTuning, "_accuracy_of", accuracy)
    config = FinetuneConfig(checkpoint=str(start), epochs=3)
    score = FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    assert (score.valid, score.test, score.epoch, score.start) == (80.0, 60.0, 2, 40.0)
    assert [split for split, _ in asked] == ["valid", "valid", "valid", "valid", "test"]


def test_the_rates_fall_by_the_decay_from_layer_to_layer_and_the_decoder_has_none(start):
    model = FineTunedNetwork(encoder_of(start), Readout(), 3)
    groups = model.prepare_training(FinetuneConfig(lr=1.0, encoder_lr=0.8, layer_decay=0.5))
    assert [group["lr"] for group in groups] == [0.1, 0.2, 0.4, 0.8, 1.0]
    grouped = {id(p) for group in groups for p in group["params"]}
    inside = {name for name, p in model.named_parameters() if id(p) in grouped}
    assert not any("decoder" in name or "mask" in name or "_head" in name for name in inside)
    assert {name.split(".")[0] for name in inside} == {"encoder", "head"}


def test_a_rate_of_0_for_the_encoder_trains_the_head_only(start, drums, tmp_path):
    tuning = begun(start, drums, tmp_path / "run", encoder_lr=0.0)
    before, head = weights(start), tuning.model.head.weight.detach().clone()
    tuning._epoch()
    after = encoder_weights(tuning)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(tuning.model.head.weight, head)


def test_a_clip_s_vector_does_not_depend_on_its_batch(start, clips):
    model = FineTunedNetwork(encoder_of(start), Readout(), 3).eval()
    together = model.vectors(clips)
    assert torch.allclose(together, torch.cat([model.vectors([clip]) for clip in clips]), atol=1e-5)


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
    config = FinetuneConfig(checkpoint=str(start), epochs=1, patience=0, positions="none")
    FineTuning(read_labels(drums), config, tmp_path / "run", None).run()
    assert load_model(tmp_path / "run" / "encoder").config.model.positions == "none"
