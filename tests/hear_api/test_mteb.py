"""MTEB's types of audio tasks on real clips; needs mteb, which `make test-mteb` installs."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from boards import mteb_tasks, read_labels
from hear_tasks import DATA

mteb = pytest.importorskip("mteb")

from hear_api.mteb import MAEB, MaeAstEncoder, find_tasks, main, run_tasks, waveform  # noqa: E402
from hear_api.mteb_metadata import PUBLISHED  # noqa: E402
from maeast_upstream.audio.reading import read_audio  # noqa: E402
from maeast_upstream.checkpoint import Card  # noqa: E402
from maeast_upstream.cli import run  # noqa: E402
from maeast_upstream.encoder import load_model  # noqa: E402

pytestmark = pytest.mark.slow

CLASSES = ("kick", "snare", "tom", "six", "stop", "zero")


@pytest.fixture(scope="module")
def tasks():
    rows, _ = read_labels(DATA / "labels.csv", CLASSES)
    return mteb_tasks(rows)


@pytest.mark.parametrize("value", ["*e", "3", "{x: y}"])
def test_a_card_whose_header_is_no_text_leaves_the_metadata_unknown(tmp_path, value):
    load_model().save_pretrained(tmp_path / "model", card=Card())
    lists = ["a: &a [x, x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 99)}]" for a, b in pairwise("abcde"))]  # 2e8 texts
    header = [*lists, f"license: {value}", f"release_date: {value}"]
    (tmp_path / "model" / "README.md").write_text("\n".join(["---", *header, "---", "# x", ""]))
    meta = MaeAstEncoder(str(tmp_path / "model")).mteb_model_meta
    assert (meta.license, meta.release_date) == ("not specified", None)


def test_a_task_of_each_type_of_the_audio_board_scores_better_than_chance(tasks, tmp_path, capsys):
    """The bounds are those of random vectors, about, for six classes with four to eight clips each."""
    assert {task.metadata.type for task in mteb.get_benchmark(MAEB).tasks} <= set(tasks)
    assert run_tasks(MaeAstEncoder(), list(tasks.values()), tmp_path / "results") == 0
    shown = capsys.readouterr().out
    scores = {
        line.split()[0].removeprefix("Small"): float(line.split()[1]) for line in shown.splitlines()[: len(tasks)]
    }
    print(f"MTEB's types on {len(CLASSES)} classes of tests/data: {scores}")
    chance = {
        "AudioClassification": 17,
        "AudioMultilabelClassification": 17,
        "AudioClustering": 30,
        "AudioPairClassification": 50,
        "Any2AnyRetrieval": 25,
        "AudioReranking": 30,
    }
    assert scores.keys() == chance.keys()
    for kind, score in scores.items():
        assert score > 1.3 * chance[kind], kind
    assert "mean of types" in shown
    assert list((tmp_path / "results").rglob("SmallAudioClustering.json"))  # which MTEB does not run again


def test_a_task_that_fails_is_named_and_the_others_run(tasks, tmp_path, capsys):
    broken = copy.copy(tasks["AudioClassification"])
    broken.metadata = broken.metadata.model_copy(update={"name": "Broken"})
    broken.data_loaded = False
    broken.load_data = lambda **_: (_ for _ in ()).throw(ConnectionError("no\nnetwork"))
    assert run_tasks(MaeAstEncoder(), [broken, tasks["AudioPairClassification"]], tmp_path) == 3
    captured = capsys.readouterr()
    assert "error: Broken: " in captured.err
    assert "SmallAudioPairClassification" in captured.out
    assert run_tasks(MaeAstEncoder(), [broken], tmp_path) == 1


def test_a_board_is_the_list_of_its_audio_tasks(capsys):
    names = {task.metadata.name for task in find_tasks([MAEB, "BeijingOpera"])}
    assert names == {task.metadata.name for task in mteb.get_benchmark(MAEB).tasks}
    assert not capsys.readouterr().err
    assert {task.metadata.name for task in find_tasks(["MAEB(v1)"])} >= {"BeijingOpera", "GTZANAudioReranking"}
    assert "left out, which need more than audio" in capsys.readouterr().err
    with pytest.raises(ValueError, match="none of MTEB's STS12 is of audio alone"):
        find_tasks(["STS12"])


def test_the_metadata_of_the_bundled_checkpoint_are_complete():
    meta = MaeAstEncoder().mteb_model_meta
    empty = {name for name, value in meta.to_dict().items() if value is None}
    not_applicable = {"loader", "languages", "adapted_from", "superseded_by", "contacts", "experiment_kwargs"}
    not_applicable |= {"n_active_parameters_override", "extra_requirements_groups", "output_dtypes"}
    assert empty <= not_applicable
    assert (meta.license, meta.modalities, meta.embed_dim) == ("apache-2.0", ["audio"], 3072)
    assert meta.memory_usage_mb == pytest.approx(meta.n_parameters * 4 / 2**20, abs=0.1)
    assert meta.is_zero_shot_on(list(mteb.get_benchmark(MAEB).tasks)) is True
    assert meta.openness_score == 6


def test_what_the_published_checkpoints_were_trained_on_are_tasks_of_mteb():
    names = sorted(PUBLISHED["training_datasets"])
    assert sorted(task.metadata.name for task in mteb.get_tasks(tasks=names)) == names


def test_the_licence_of_another_checkpoint_is_that_of_its_card(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "other")
    meta = MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta
    assert (meta.license, meta.training_datasets, meta.release_date) == ("not specified", None, None)
    make_encoder().save_pretrained(tmp_path / "other", card=Card(license="cc-by-4.0"))
    assert MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta.license == "cc-by-4.0"
    (tmp_path / "other" / "README.md").write_text(
        "---\nlicense: [a, {b: c}]\nrelease_date: !!python/name:os.system\n---\n"
    )
    assert MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta.license == "not specified"


def test_an_empty_clip_counts_as_silence():
    assert waveform({"array": np.zeros(0, np.float32), "sampling_rate": 16000}).tolist() == [0.0]


def test_weights_are_the_revision(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "other")
    bundled, other = (
        MaeAstEncoder().mteb_model_meta,
        MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta,
    )
    assert (bundled.name, other.name) == ("mae-ast/bundled", "mae-ast/other")
    assert bundled.revision != other.revision
    assert MaeAstEncoder().mteb_model_meta.revision == bundled.revision


def test_the_readout_and_the_precision_are_in_the_revision(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "other")
    revisions = [
        MaeAstEncoder(str(tmp_path / "other"), precision=precision).mteb_model_meta.revision
        for precision in (None, "bf16")
    ]
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"readout": {"pool": "mean_std"}}))
    revisions.append(MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta.revision)
    assert len(set(revisions)) == 3


def test_a_task_that_mteb_does_not_have_is_one_line(capsys):
    assert run(main, ["Typo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Typo" in said
    assert said.count("\n") == 1


def test_any_rate_and_channels_become_16_khz_mono(tmp_path):
    rng = np.random.default_rng(0)
    stereo = rng.uniform(-0.5, 0.5, (2, 44100)).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", stereo.T, 44100, subtype="FLOAT")
    expected = read_audio(tmp_path / "two.wav")
    assert np.allclose(waveform({"array": stereo, "sampling_rate": 44100}).numpy(), expected, atol=1e-5)
    mono = {"array": stereo[0], "sampling_rate": 16000}
    assert np.array_equal(waveform(mono).numpy(), stereo[0])
