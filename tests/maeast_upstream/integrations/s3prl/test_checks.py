"""What s3prl would trip over, or loop on for ever, is named before it starts."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import superb_sets
from superb_sets import RATE, make

from maeast_upstream.integrations.s3prl.checks import check_steps, check_superb_task
from maeast_upstream.integrations.s3prl.configs import config_path, read_config
from maeast_upstream.integrations.s3prl.tasks import TASKS

PAPER = ("speech_commands", "voxceleb1", "emotion")
FOLDERS = sorted(config_path("ctc").parent.glob("*.yaml"))


@pytest.fixture(params=sorted(TASKS))
def task(request):
    return request.param


@pytest.fixture
def config(task, tmp_path):
    return make(task, tmp_path / task)


def said(task, config, mode="train"):
    """The check's one line."""
    with pytest.raises(ValueError, match=r".") as caught:
        check_superb_task(task, config, mode)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def audio_of(config, task):
    """A training clip of a task."""
    return TASKS[task].clips(config).train[0]


def test_a_config_for_every_task_and_the_paper_s_settings():
    assert {path.stem for path in FOLDERS} == {*TASKS, *(f"paper_{task}" for task in PAPER)}


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.stem)
def test_every_config_opens_with_its_launch_line_and_has_the_task_s_fields(path):
    name = path.stem.removeprefix("paper_")
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"maeast-run-downstream -m train -u mae_ast -d {name} " in head
    if path.stem != name:
        assert f"-c configs/superb/{path.name}" in head
        assert " -f -s " in head
    assert "no such fo" in (line := said(name, read_config(path))) or "no such file" in line


def test_valid_data_is_accepted(task, config):
    for mode in ("train", "evaluate", "inference"):
        check_superb_task(task, config, mode)


def test_the_error_for_a_config_of_another_task_names_that_task(task):
    for other in set(TASKS) - {task}:
        line = said(task, read_config(config_path(other)))
        assert f"one for -d {other}" in line
        assert f"-d {task}" in line


def test_a_missing_field_is_named():
    config = read_config(config_path("emotion"))
    del config["downstream_expert"]["datarc"]["pre_load"]
    assert "no downstream_expert.datarc.pre_load" in said("emotion", config)
    config = read_config(config_path("emotion"))
    del config["runner"]["eval_step"]
    assert "no runner.eval_step" in said("emotion", config)


def test_a_missing_folder_or_file_is_named_with_its_field(task, config):
    for section, fields in config["downstream_expert"].items():
        for field, there in (fields or {}).items() if isinstance(fields, dict) else ():
            if (
                isinstance(there, str) and there.startswith("/") and field != "train_meta_data"
            ):  # which s3prl never opens
                fields[field] = "/nowhere/at/all"
                assert f"downstream_expert.{section}.{field}: no such" in said(task, config)
                fields[field] = there


def test_an_empty_file_is_named(task, config):
    clip = audio_of(config, task)
    clip.write_bytes(b"")
    assert f"{clip}: empty file" in said(task, config)


def test_a_clip_of_ten_samples_is_named(task, config):
    clip = audio_of(config, task)
    soundfile.write(clip, np.zeros(10), RATE)
    assert f"{clip}: 10 samples at 16000 Hz; expected at least 25 ms" in said(task, config)


def test_a_file_that_is_no_audio_is_named(task, config):
    clip = audio_of(config, task)
    clip.write_text("a letter")
    assert f"{clip}: not audio" in said(task, config)


def test_another_rate_or_stereo_is_named_if_the_task_does_not_convert(task, config):
    clip = audio_of(config, task)
    soundfile.write(clip, np.zeros((4000, 2)), 8000)
    if task in ("speech_commands", "emotion", "sv_voxceleb1"):
        check_superb_task(task, config, "train")  # these convert
    else:
        assert f"{clip}: 8000 Hz, 2 channels" in said(task, config)


def test_a_missing_clip_is_named(task, config):
    clip = audio_of(config, task)
    if task in ("speech_commands", "ctc", "sv_voxceleb1"):
        pytest.skip("takes what lies there")
    clip.unlink()
    assert f"{clip}: no such file" in said(task, config)


def test_no_training_clips_are_refused_where_s3prl_would_loop(task, config, monkeypatch):
    clips = TASKS[task].clips(config)
    clips.train = []
    monkeypatch.setitem(TASKS, task, type(TASKS[task])(TASKS[task].fields, lambda config: clips))
    assert "0 training clips" in said(task, config)
    check_superb_task(task, config, "evaluate")


def test_fewer_ks_clips_than_a_batch_are_refused(tmp_path):
    config = make("speech_commands", tmp_path)
    data = config["downstream_expert"]["datarc"]
    count = len(TASKS["speech_commands"].clips(config).train)
    data["batch_size"] = count + 3  # two files of noise count, too
    line = said("speech_commands", config)
    assert "loops for ever" in line
    assert f"{count} training clips" in line
    check_superb_task("speech_commands", config, "evaluate")
    data["batch_size"] = count + 2
    check_superb_task("speech_commands", config, "train")


def test_ks_noise_of_less_than_a_second_is_named(tmp_path):
    config = make("speech_commands", tmp_path)
    noise = TASKS["speech_commands"].clips(config).noise[0]
    soundfile.write(noise, np.zeros(15_000), RATE)
    assert f"{noise}: 15000 samples at 16000 Hz; expected at least a second" in said("speech_commands", config)
    for path in TASKS["speech_commands"].clips(config).noise:
        path.unlink()
    assert "_background_noise_: no .wav" in said("speech_commands", config)


def test_a_ks_test_folder_that_is_no_class_is_named(tmp_path):
    config = make("speech_commands", tmp_path)
    strange = Path(config["downstream_expert"]["datarc"]["speech_commands_test_root"]) / "seven"
    strange.mkdir()
    assert f"{strange}: a test folder whose name is no class" in said("speech_commands", config)


@pytest.mark.parametrize("line", ["1 id11252/v/1.wav", "1 id9/v/1.wav", "4 id10001/v/1.wav", "1 one two three"])
def test_sid_lines_that_its_head_cannot_take_are_named(tmp_path, line):
    config = make("voxceleb1", tmp_path)
    table = Path(config["downstream_expert"]["datarc"]["meta_data"])
    table.write_text(table.read_text() + line + "\n")
    assert str(table) in said("voxceleb1", config)


def test_er_labels_that_are_not_in_the_list_are_named(tmp_path):
    config = make("emotion", tmp_path)
    path = Path(config["downstream_expert"]["datarc"]["meta_data"]) / "Session1" / "test_meta_data.json"
    table = json.loads(path.read_text())
    table["meta_data"][0]["label"] = "bored"
    path.write_text(json.dumps(table))
    assert f"{path}: label 'bored' is not among its labels" in said("emotion", config)
    path.write_text("{}")
    assert f"{path}: expected" in said("emotion", config)


def test_er_without_a_fold_in_its_config_checks_all_folds(tmp_path):
    config = make("emotion", tmp_path)
    config["downstream_expert"]["datarc"]["test_fold"] = None
    check_superb_task("emotion", config, "train")
    (Path(config["downstream_expert"]["datarc"]["meta_data"]) / "Session2").mkdir()
    assert "Session2/train_meta_data.json" in said("emotion", config)


def test_an_intent_that_train_lacks_is_named(tmp_path):
    config = make("fluent_commands", tmp_path)
    table = tmp_path / "data" / "test_data.csv"
    table.write_text(table.read_text().replace("play,drum", "dance,drum"))
    assert f"{table}: action 'dance' does not occur" in said("fluent_commands", config)


def test_asv_refuses_dev_evaluation_which_cannot_work(tmp_path):
    config = make("sv_voxceleb1", tmp_path)
    config["runner"]["eval_dataloaders"] = ["dev"]
    assert "runner.eval_dataloaders" in said("sv_voxceleb1", config)


def test_a_word_without_phones_is_named(tmp_path):
    config = make("ctc", tmp_path)
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text(lexicon.read_text().replace("SEVEN", "ELEVEN"))
    assert "the lexicon has no word 'SEVEN'" in said("ctc", config)


def test_an_evaluation_of_a_split_without_clips_is_refused(tmp_path):
    config = make("voxceleb1", tmp_path)
    table = Path(config["downstream_expert"]["datarc"]["meta_data"])
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if line[0] != "2"))
    assert "lists dev, which has no clips" in said("voxceleb1", config)


@pytest.mark.parametrize("number", [0, -1, "many", None, True])
def test_steps_that_are_no_number_above_0_are_named(tmp_path, number):
    config = make("emotion", tmp_path)
    config["runner"]["save_step"] = number
    assert "runner.save_step: expected a number above 0" in said("emotion", config)


def test_tasks_that_are_not_superbs_are_not_checked():
    check_superb_task("asr", {}, "train")


def test_the_sets_are_real_clips():
    assert all(len(next(superb_sets.sounds(label))) > 1000 for label in ("kick", "yes", "zero"))


@pytest.mark.parametrize(("options", "task", "works"), [
    ({}, "sv_voxceleb1", False),
    ({"hop_ms": 40}, "sv_voxceleb1", True),
    ({"repeat": 8}, "sv_voxceleb1", True),
    ({}, "separation_stft2", False),
    ({"hop_ms": 40}, "separation_stft2", True),
    ({}, "speech_commands", True),
])  # fmt: skip
def test_heads_that_need_shorter_time_steps_are_refused(options, task, works):
    from maeast_upstream.expert import UpstreamExpert

    rate = UpstreamExpert(**options).get_downsample_rates()
    if works:
        check_steps(task, read_config(config_path(task)), rate)
    else:
        with pytest.raises(ValueError, match="2560 samples \\(160 ms\\)"):
            check_steps(task, read_config(config_path(task)), rate)


def test_too_few_time_steps_for_phones_are_a_warning(caplog):
    check_steps("ctc", {}, 640)
    assert not caplog.records
    check_steps("ctc", {}, 2560)
    assert "fewer steps than phones" in caplog.text


@pytest.mark.parametrize("split", ["dev", "test"])
def test_phone_linear_refuses_a_split_of_which_no_clip_would_be_in_a_batch(tmp_path, split):
    config = make("phone_linear", tmp_path)
    data = config["downstream_expert"]["datarc"]
    data["eval_batch_size"] = 32
    config["runner"]["eval_dataloaders"] = [split]
    count = len(getattr(TASKS["phone_linear"].clips(config), split))
    line = said("phone_linear", config)
    assert f"none of the {count} {split} clips is used" in line
    assert "datarc.eval_batch_size=1" in line
    data["eval_batch_size"] = 1
    assert check_superb_task("phone_linear", config, "train") is not None


def test_only_the_split_that_is_evaluated_must_be_in_batches(tmp_path):
    config = make("phone_linear", tmp_path)
    config["downstream_expert"]["datarc"]["train_batch_size"] = 32
    assert check_superb_task("phone_linear", config, "evaluate", "test") is not None


def test_clips_of_phone_linear_that_are_in_no_batch_are_counted(tmp_path, caplog):
    config = make("phone_linear", tmp_path)
    config["downstream_expert"]["datarc"]["eval_batch_size"] = 2
    clips = TASKS["phone_linear"].clips(config)
    assert set(clips.batched) == {"train", "dev", "test"}
    config["downstream_expert"]["datarc"]["train_batch_size"] = len(clips.train) - 1
    check_superb_task("phone_linear", config, "train")
    assert f"leaves out 1 of {len(clips.train)} train clips" in caplog.text


@pytest.mark.s3prl
def test_batches_of_phone_linear_are_those_of_s3prl(tmp_path):
    pytest.importorskip("s3prl")
    importlib.import_module("maeast_upstream.superb")
    dataset = importlib.import_module("s3prl.downstream.phone_linear.dataset").PhoneDataset
    config = make("phone_linear", tmp_path)
    data = config["downstream_expert"]["datarc"]
    for size in (1, 2, 3, 4, 5, 7, 32):
        data["train_batch_size"] = data["eval_batch_size"] = size
        for split, count in TASKS["phone_linear"].clips(config).batched.items():
            assert count == sum(map(len, dataset(split, size, **data).X)), (split, size)
