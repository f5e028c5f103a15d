"""Where audio comes from: manifests, folders, shards near and far; and what is wrong with them."""

import dataclasses
import functools
import http.server
import io
import json
import shutil
import tarfile
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import sweep, write

from maeast_upstream import load_model
from maeast_upstream.audio.reading import duration_ms, read_audio
from maeast_upstream.cli import run
from maeast_upstream.data import tars
from pretrain import pack
from pretrain.cli import main
from pretrain.config import DataConfig, LossConfig
from pretrain.data import clips as data_clips
from pretrain.data.batches import Batch, BatchSharding, CropBatches, batches
from pretrain.data.clips import PackedClips, first_sample, open_folder, open_manifest, read_crop
from pretrain.data.corpus import open_training
from pretrain.data.packing import pack as pack_clips
from pretrain.data.shards import ShardBatches, Stream, find_shards
from pretrain.trainer import Trainer

AUDIO = Path(__file__).parents[2] / "data" / "audio"
CLIPS = sorted(AUDIO.glob("*.opus"))[:24]


def write_shards(folder, number, clips=CLIPS):
    folder.mkdir(exist_ok=True)
    for shard in range(number):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for clip in clips[shard::number]:
                tar.add(clip, arcname=clip.name)
                note = tarfile.TarInfo(clip.with_suffix(".json").name)
                note.size = 2
                tar.addfile(note, io.BytesIO(b"{}"))
    return folder


def direct(recipe, source, **changes):
    data = {"corpus": str(source), "pack": False, "packed": None, **changes}
    return dataclasses.replace(recipe, tensorboard=False, data=dataclasses.replace(recipe.data, **data))


def test_a_manifest_trains_like_its_files_packed(recipe, tmp_path):
    manifest = tmp_path / "clips.tsv"
    rows = [f"{clip.name}\t{len(read_audio(clip))}\tsound" for clip in CLIPS]
    manifest.write_text("\n".join([str(AUDIO), *rows]) + "\n")
    assert run(pack.main, [str(manifest), "-o", str(tmp_path / "packed"), "--workers", "0"]) == 0
    one, other = (opened(direct(recipe, corpus)) for corpus in (manifest, tmp_path / "packed"))
    assert one.clips.kinds.tolist() == ["sound"] * 24
    assert one.clips.name(3) == str(CLIPS[3])
    for step in range(3):
        assert one[step].clips == other[step].clips
        assert (one[step].waveforms - other[step].waveforms).abs().max() < 2e-4  # int16


def test_a_manifest_may_lie_beside_its_root(tmp_path):
    shutil.copytree(AUDIO, tmp_path / "audio", ignore=lambda _, names: [n for n in names if n != CLIPS[0].name])
    (tmp_path / "m.tsv").write_text(f"audio\r\n{CLIPS[0].name}\t100\r\n\n")
    assert open_manifest(tmp_path / "m.tsv").read(0, 50, 0.5).shape == (50,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/nowhere/at/all\na.wav\t5\n", "'/nowhere/at/all'"),
        ("", "root folder"),
        (".\n", "no clip below its first line"),
        (".\na.wav\n", "row 0 (counted from 0) below the root folder: expected path, tab, samples"),
        (".\n\na.wav\tlong\n", "row 0 (counted from 0) below the root folder: expected path, tab, samples"),
    ],
)
@pytest.mark.parametrize("packs", ["true", "false"])
def test_a_manifest_that_is_none_is_one_line(tmp_path, capsys, text, message, packs):
    (tmp_path / "m.tsv").write_text(text)
    options = ["--data.corpus", str(tmp_path / "m.tsv"), "--data.pack", packs, "--out", str(tmp_path / "run")]
    assert run(main, ["--config", "mae_ast_base_patch", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_crop_is_a_slice_of_the_whole(tmp_path, suffix, rate):
    path = write(tmp_path / f"x.{suffix}", sweep(rate, 3.0), rate)
    whole = read_audio(path)
    for place in (0.0, 0.37, 0.999):
        crop = read_crop(path, 8000, place)
        first = first_sample(int(duration_ms(path) * 16), 8000, place)
        assert np.abs(whole[first : first + 8000] - crop).max() < 1e-4
    assert len(read_crop(path, 10**6, 0.5)) == len(whole)


def test_of_a_long_file_only_the_crop_is_read(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.flac", sweep(16_000, 120.0), 16_000)
    seconds = []

    def counted(*args):
        samples = read_audio(*args)
        seconds.append(len(samples) / 16_000)
        return samples

    monkeypatch.setattr(data_clips, "read_audio", counted)
    assert len(open_folder(tmp_path).read(0, 160_000, 0.9)) == 160_000
    assert seconds == [10.0]


def test_8_channels_at_another_rate_are_a_clip_like_any(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.tile(sweep(48_000, 2.0)[:, None], 8), 48_000)
    assert open_folder(tmp_path).lengths.tolist() == [32_000]


@pytest.mark.slow
def test_a_corrupt_file_is_counted_named_and_skipped(recipe, tmp_path, caplog):
    folder = tmp_path / "clips"
    folder.mkdir()
    for clip in CLIPS:
        shutil.copy(clip, folder)
    (folder / "text.wav").write_bytes(b"not audio at all " * 30)
    good = folder / "x.wav"
    soundfile.write(good, np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    recipe = direct(recipe, folder, max_bad_share=0.5)
    assert Trainer(recipe).train()
    assert caplog.text.count("text.wav: ") == 1
    bad = [json.loads(line).get("bad_clips") for line in (Path(recipe.out) / "metrics.jsonl").read_text().splitlines()]
    assert bad[-1] in (1, 2)
    caplog.clear()
    source = opened(recipe)
    failures = [name for step in range(40) for name, _ in source[step].failures]
    assert set(failures) == {str(good)}


@pytest.mark.slow
def test_too_many_bad_files_stop_the_run_with_their_list(recipe, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, clip in enumerate(CLIPS):
        shutil.copy(clip, folder)
        if number % 4 == 0:
            soundfile.write(folder / f"nan{number}.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    optim = dataclasses.replace(recipe.optim, steps=100)
    with pytest.raises(
        ValueError, match=r"of \d+ clips read could not be decoded, above data\.max_bad_share 0\.05"
    ) as e:
        Trainer(dataclasses.replace(direct(recipe, folder), optim=optim)).train()
    assert str(e.value).count("NaN or infinite samples") >= 3
    assert "\n" not in str(e.value)


def test_where_nothing_can_be_decoded_the_run_ends_with_one_line(recipe, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"no clip of the corpus could be decoded: .*NaN or infinite samples"):
            Trainer(direct(recipe, folder, workers=workers))


def test_clips_shorter_than_a_patch_are_left_out_and_if_all_are_so_it_is_an_error(recipe, tmp_path, caplog):
    for number, samples in enumerate((300, 2000, 20_000, 30_000)):
        soundfile.write(tmp_path / f"{number}.wav", sweep(16_000, 2.0)[:samples], 16_000)
    padded = direct(recipe, tmp_path, short_clips="pad", mix=False)
    assert len(opened(padded).clips.lengths) == 2
    assert "2 of 4 clips are shorter than 0.175 s and left out, 0.00 of 0.00 h" in caplog.text
    for name in ("2.wav", "3.wav"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"all 2 clips are shorter than 0\.175 s .* the longest has 0\.125 s"):
        Trainer(padded)
    with pytest.raises(ValueError, match=r"all 2 clips are shorter than 1\.000 s"):
        Trainer(direct(recipe, tmp_path, min_seconds=1.0))


def opened(recipe):
    return open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())


def take(source, number, workers=0):
    return [Batch(*batch) for batch in islice(batches(source, 0, number, workers), number)]


CROPS = DataConfig(crop_seconds=0.5, batch_clips=4, shuffle_clips=8, mix=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_shuffled_and_every_clip_comes(tmp_path, workers):
    shards = find_shards(str(write_shards(tmp_path / "shards", 4)))
    one, other = (take(ShardBatches(shards, CROPS, 2, (0, start)), 15, workers) for start in (0, 6))
    names = [name for batch in one for name in batch.clips]
    assert one[0].waveforms.shape == (8, 8000)
    assert len(set(names)) == 24
    assert names != sorted(names)
    assert names != [name for batch in other for name in batch.clips]
    again = take(ShardBatches(shards, CROPS, 2, (0, 0)), 15, workers)
    assert all(torch.equal(a.waveforms, b.waveforms) for a, b in zip(one, again, strict=True))


def test_shards_are_shared_out_over_processes(tmp_path):
    shards = find_shards(str(write_shards(tmp_path / "shards", 4)))
    seen = []
    for rank in range(2):
        config = dataclasses.replace(CROPS, shuffle_clips=2)
        source = ShardBatches(shards, config, 1, (0, 0), BatchSharding(processes=2, rank=rank))
        seen.append({name for batch in take(source, 4) for name in batch.clips})
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 16


@pytest.mark.parametrize("how", ["braces", "http"])
def test_shards_may_be_addresses(tmp_path, how):
    folder = write_shards(tmp_path / "shards", 2)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))  # gives no parts of files
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = {
            "braces": f"{folder}/{{000..001}}.tar",
            "http": f"http://127.0.0.1:{server.server_port}/{{000..001}}.tar",
        }[how]
        found = find_shards(address)
        assert len(found) == 2
        seen = take(ShardBatches(found, CROPS, 1, (0, 0)), 8)
        server.shutdown()
    assert {len(batch.waveforms) for batch in seen} == {4}
    assert not any(batch.failures for batch in seen)
    assert len({name for batch in seen for name in batch.clips}) > 12


def test_a_remote_shard_that_is_missing_is_named_without_its_password(tmp_path):
    whole = write_shards(tmp_path / "shards", 1) / "000.tar"
    source = ShardBatches([str(whole), "http://user:secret123@127.0.0.1:9/x.tar?token=abcdef"], CROPS, 1, (0, 0))
    bad = {name: reason for batch in take(source, 6) for name, reason in batch.failures}
    ((name, reason),) = bad.items()
    assert "x.tar" in name
    assert "not to be read" in reason
    assert "secret123" not in name + reason
    assert "abcdef" not in name + reason


@pytest.mark.parametrize("command", ["pipe:touch ran", "pipe:touch ran.tar", "a.tar::pipe:touch ran.tar", "-x.tar"])
def test_a_command_for_a_corpus_is_refused_and_not_run(recipe, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for packs in (True, False):
        data = dataclasses.replace(recipe.data, corpus=command, pack=packs, packed=None)
        with pytest.raises(ValueError, match="commands are not run|no such shard|no such folder"):
            Trainer(dataclasses.replace(recipe, data=data))
    assert not list(tmp_path.glob("ran*"))


NAMES = (
    "pipe:touch ran; cat good.tar #.tar",
    "http:x.tar",
    "a::b.tar",
    "{0..3}.tar",
    "-o.tar",
    "@x.tar",
    "%2e.tar",
    "x y;touch ran.tar",
)


def test_the_name_of_a_shard_is_only_a_name(tmp_path, monkeypatch):
    good = write_shards(tmp_path / "shards", 1) / "000.tar"
    folder = tmp_path / "named"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(good, folder / name)
    monkeypatch.chdir(folder)
    found = find_shards(".")
    assert sorted(found) == sorted(NAMES)
    batches = take(ShardBatches(found, CROPS, 1, (0, 0)), 60)
    assert not any(batch.failures for batch in batches)
    assert {name.rpartition(".tar/")[0] + ".tar" for batch in batches for name in batch.clips} == set(NAMES)
    for name in NAMES:
        assert find_shards(name) == [name]
        assert find_shards(str(folder / name)) == [str(folder / name)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("readers", [1, 2, 4, 7])
def test_a_reader_whose_shards_are_all_broken_reads_those_of_others(tmp_path, readers):
    folder = write_shards(tmp_path / "shards", 4)
    (folder / "000.tar").write_bytes(b"")
    (folder / "001.tar").write_bytes(b"nothing")
    source = ShardBatches(find_shards(str(folder)), CROPS, 1, (0, 0))
    for reader in range(readers):
        stream = Stream(source, reader, readers)
        failures = {}
        for _ in range(12):
            batch = stream.batch(8000, 4, 0)
            assert len(batch.waveforms) == 4
            failures |= dict(batch.failures)
        assert set(failures) <= {str(folder / "000.tar"), str(folder / "001.tar")}


def test_shards_in_which_nothing_can_be_decoded_end_with_one_line(recipe, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.wav")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"bytes"))
    with pytest.raises(ValueError, match=r"no clip of the corpus could be decoded: .*a\.tar/\d\.wav"):
        Trainer(direct(recipe, tmp_path, shuffle_clips=2))


def test_links_in_a_streamed_shard_are_named_and_counted(tmp_path):
    folder = write_shards(tmp_path / "shards", 1)
    with tarfile.open(folder / "000.tar", "a") as tar:
        link = tarfile.TarInfo("y.opus")
        link.type, link.linkname = tarfile.SYMTYPE, "/data/y.opus"
        tar.addfile(link)
    source = ShardBatches(find_shards(str(folder)), CROPS, 1, (0, 0))
    failures = dict(failure for batch in take(source, 8) for failure in batch.failures)
    assert list(failures) == [f"{folder}/000.tar/y.opus"]
    assert "a link to /data/y.opus" in failures[f"{folder}/000.tar/y.opus"]


def test_a_member_that_is_too_large_for_memory_is_named(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "shards", 1)
    monkeypatch.setattr(tars, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(ValueError, match=r"limit of a member is"):
        pack_clips(folder, tmp_path / "packed", 0)


def test_packed_and_streamed_shards_draw_short_clips_alike(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, samples in enumerate((40_000, 3000, 900, 7000)):
        soundfile.write(folder / f"{number}.wav", sweep(16_000, 3.0)[:samples], 16_000)
    with tarfile.open(folder / "a.tar", "w") as tar:
        for path in sorted(folder.glob("*.wav")):
            tar.add(path, path.name)
            path.unlink()
    config = dataclasses.replace(CROPS, crop_seconds=1.0, batch_clips=40, mix=False)
    packed = CropBatches(PackedClips(pack_clips(folder, tmp_path / "packed", 0)), config, 1, 0)
    drawn = np.bincount([clip for step in range(10) for clip in packed[step].clips], minlength=4)
    names = [
        name for batch in take(ShardBatches(find_shards(str(folder)), config, 1, (0, 0)), 10) for name in batch.clips
    ]
    streamed = np.bincount([int(name.rpartition("/")[2][0]) for name in names], minlength=4)
    assert drawn.min() > 70
    assert streamed.min() > 70


def test_broken_shards_and_clips_are_named_and_skipped(tmp_path):
    folder = write_shards(tmp_path / "shards", 2)
    whole = (folder / "000.tar").read_bytes()
    (folder / "002.tar").write_bytes(whole[:9000])
    (folder / "003.tar").write_bytes(b"nothing")
    with tarfile.open(folder / "004.tar", "w") as tar:
        member = tarfile.TarInfo("bad.wav")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"bytes"))
    source = ShardBatches(find_shards(str(folder)), CROPS, 1, (0, 0))
    bad = {name: reason for batch in take(source, 12) for name, reason in batch.failures}
    assert {Path(name).name for name in bad} == {"002.tar", "003.tar", "bad.wav"}
    assert "not a whole tar file" in bad[str(folder / "003.tar")]


def test_shards_without_one_clip_end_with_one_line(recipe, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no clip of the corpus could be decoded: .*a\.tar"):
        Trainer(direct(recipe, tmp_path))


@pytest.mark.slow
def test_a_run_on_shards_resumes_with_a_new_shuffle_and_says_so(recipe, tmp_path, caplog):
    recipe = direct(recipe, write_shards(tmp_path / "shards", 2), workers=1, shuffle_clips=8)
    recipe = dataclasses.replace(recipe, losses=LossConfig())
    assert Trainer(dataclasses.replace(recipe, max_minutes=1e-9)).train()
    assert Trainer(recipe).train()
    assert "a new shuffle from batch 2 on" in caplog.text
    assert load_model(recipe.out).config.provenance.steps == 6
    assert load_model(recipe.out).config.provenance.data == "2 shards of shards"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind_power": 0.5}, r"data\.kind_power 0\.5 and streamed shards \(data\.pack false\) do not go together"),
        ({"min_seconds": 1.0}, r"data\.min_seconds 1\.0 and streamed shards"),
        ({"short_clips": "pad"}, r"data\.short_clips pad and streamed shards"),
        ({"corpus": "nowhere/{000..003}.tar"}, r"no such shard: nowhere/000\.tar"),
        ({"corpus": "s3://bucket/{000..003}.tar", "pack": True}, r"data\.corpus s3.* and data\.pack true do not go"),
    ],
)
def test_what_does_not_go_with_shards_is_refused_with_both_settings(recipe, tmp_path, change, message):
    folder = write_shards(tmp_path / "shards", 1)
    with pytest.raises(ValueError, match=message):
        Trainer(direct(recipe, folder, **change))


def test_audio_files_beside_streamed_shards_are_named(recipe, tmp_path, caplog):
    folder = write_shards(tmp_path / "shards", 1)
    opened(direct(recipe, folder))
    assert not caplog.text
    shutil.copy(CLIPS[0], folder)
    opened(direct(recipe, folder))
    assert f"1 audio files beside the shards are left out, the first: {folder / CLIPS[0].name}" in caplog.text


@pytest.mark.parametrize("pack", [True, False])
def test_a_corpus_without_a_name_is_refused(recipe, pack):
    with pytest.raises(ValueError, match=r"data\.corpus and data\.validation must not be empty"):
        opened(direct(recipe, "", pack=pack))


def test_validation_on_shards_is_refused(recipe, tmp_path):
    folder = write_shards(tmp_path / "shards", 1)
    data = dataclasses.replace(recipe.data, validation=str(folder))
    with pytest.raises(ValueError, match=r"data\.validation .*streamed shards would give other clips each time"):
        Trainer(dataclasses.replace(recipe, data=data))


def test_packing_says_what_it_left_out_and_is_exact_for_16_bit_audio(tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    samples[:2] = (-32768, 32767)
    soundfile.write(folder / "a.wav", samples, 16_000, subtype="PCM_16")
    (folder / "b.wav").write_bytes(b"nothing")
    assert run(pack.main, [str(folder), "-o", str(tmp_path / "packed"), "--workers", "0"]) == 3
    assert "1 clip, 0.00 h; 1 left out" in capsys.readouterr().out
    assert (np.fromfile(tmp_path / "packed" / "audio.i16", np.int16) == samples).all()
    assert run(pack.main, [str(folder), "-o", str(tmp_path / "packed")]) == 1
    assert "holds a packed corpus already" in capsys.readouterr().err
