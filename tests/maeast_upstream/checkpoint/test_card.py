"""Model cards: that the hub's own library reads them, that no text of a checkpoint breaks them, that edits stay."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import projection_of

from maeast_upstream import load_model
from maeast_upstream.checkpoint import PROJECTION_NAME
from maeast_upstream.checkpoint.card import Card, is_ours, read_card, rewrite_card, write_card
from maeast_upstream.checkpoint.layout import CARD_NAME, encoder_size
from maeast_upstream.checkpoint.places import BUNDLED
from maeast_upstream.config import EncoderConfig, Provenance
from maeast_upstream.readout import Readout

BUNDLED_CARD = BUNDLED / "MODEL_CARD.md"
HOSTILE = (
    "---\nlicense: mit\n---",
    'a"b: [c, {d: &e *e',
    "<script>alert(1)</script>",
    "[text](javascript:x)",
    "```\n# heading\n| a | b |",
    "\x1b[2J\x00\u2028\u202e",
    "caf\udce9",
    "<!-- maeast-upstream wrote this card: " + 64 * "0" + " -->",
)


def with_provenance(**values):
    return EncoderConfig(provenance=Provenance(**values))


def test_the_hubs_library_reads_all_that_a_publisher_says():
    card = Card(
        license="cc-by-4.0",
        language=["en", "fr"],
        datasets=["agkphysics/AudioSet"],
        tags=["bioacoustics"],
        results={"birds": 71.5, "drums": 60.0},
        limits="Only birds.",
    )
    content = write_card(
        with_provenance(data="40 h of birds", steps=1200, parents=["org/base"]), 85_000_000, "me/b", card
    )
    read = ModelCard(content)
    assert read.data.license == "cc-by-4.0"
    assert read.data.language == ["en", "fr"]
    assert read.data.library_name == "maeast-upstream"
    assert read.data.pipeline_tag == "feature-extraction"
    assert read.data.datasets == ["agkphysics/AudioSet"]
    assert {"audio", "bioacoustics"} <= set(read.data.tags)
    assert [(each.dataset_name, each.metric_type, each.metric_value) for each in read.data.eval_results] == [
        ("birds", "accuracy", 71.5),
        ("drums", "accuracy", 60.0),
    ]
    assert read.data.model_name == "me/b"
    titles = [line[3:] for line in content.splitlines() if line.startswith("## ")]
    assert titles == ["Usage", "Front end", "Readout", "Training data", "Results", "Limits", "Citation"]
    for said in (
        "85.0 M",
        '`load_model("me/b")'[1:],
        "40 h of birds",
        "1,200",
        "org/base",
        "| birds | 71.5 |",
        "Only birds.",
    ):
        assert said in content, said


def test_what_is_not_known_is_said_and_not_made_up():
    content = write_card(EncoderConfig(), 1, "sounds")
    header, body = read_card(content)
    assert header["license"] == "unknown"
    assert not {"language", "datasets", "metrics", "model-index"} & set(header)
    assert "It was not recorded." in body
    assert "maeast probe labels.csv --checkpoint sounds" in body


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_of_a_checkpoint_are_shown_and_do_nothing(text, tmp_path):
    config = with_provenance(data=text, package=text, parents=[text, f"/home/me/{text}"])
    content = write_card(config, 1, text)
    (tmp_path / CARD_NAME).write_text(content, encoding="utf-8")
    header, body = read_card(content)
    assert header["license"] == "unknown"
    assert header == ModelCard(content).data.to_dict()
    plain = write_card(with_provenance(data="x", package="x", parents=["x", "x"]), 1, "x")
    for line_start in ("## ", "# ", "```", "| ", "---", "<!--", "- "):
        counts = [sum(line.startswith(line_start) for line in each.splitlines()) for each in (content, plain)]
        assert counts[0] == counts[1], line_start
    outside_code = re.sub(r"^```.*?^```", "", body, flags=re.DOTALL | re.MULTILINE)
    for opening in ("<script", "](javascript", "<!-- maeast-upstream wrote this card: 0"):
        assert opening not in outside_code.replace("\\" + opening[0], "")
    assert "/home/me" not in content
    assert is_ours(tmp_path / CARD_NAME)


def test_a_header_that_is_too_long_is_not_read():
    assert read_card("---\nlicense: mit\n---\n\n# x\n") == ({"license": "mit"}, "# x\n")
    assert read_card("---\nlicense: mit\n" + 20_000 * "a: 1\n" + "---\n\n# x\n") == ({}, "# x\n")


@pytest.mark.slow
@settings(max_examples=25)
@given(st.text(max_size=80), st.text(min_size=1, max_size=40))
def test_any_text_leaves_the_header_of_the_card_whole(data, name):
    card = Card(license="mit", results={name: 1.0})
    header, _ = read_card(write_card(with_provenance(data=data, parents=[data]), 1, name, card))
    assert header["license"] == "mit"
    assert len(header["model-index"][0]["results"]) == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"license": "Apache 2.0\nx"}, "Apache 2.0"),
        ({"language": "en"}, "language"),
        ({"datasets": ["a b"]}, "a b"),
        ({"tags": [3]}, "3"),
        ({"results": {"drums": "good"}}, "drums"),
        ({"results": {3: 0.5}}, "3"),
        ({"limits": None}, "limits"),
        ({"results": {"drums": float("nan")}}, "drums"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_in_one_line(options, named):
    with pytest.raises(ValueError, match=named) as refused:
        Card(**options)
    assert "\n" not in str(refused.value)


def test_a_saved_checkpoint_has_a_card_of_its_readout(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "sounds", card=Card(license="mit"))
    read = ModelCard.load(tmp_path / "sounds" / CARD_NAME)
    assert read.data.license == "mit"
    assert 'load_model("sounds")' in read.text
    width = encoder.embed([[0.0]]).shape[1]
    assert f"{width:,} of a clip" in read.text
    assert is_ours(tmp_path / "sounds" / CARD_NAME)


def test_a_card_names_the_projection_and_the_readout_that_it_is_for(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "full")
    assert PROJECTION_NAME not in (tmp_path / "full" / CARD_NAME).read_text()
    encoder.use_projection(projection_of(encoder.config))
    encoder.config = dataclasses.replace(encoder.config, readout=Readout(dims=4))
    encoder.save_pretrained(tmp_path / "short")
    text = (tmp_path / "short" / CARD_NAME).read_text()
    assert f"`{PROJECTION_NAME}`: vectors of N numbers, N from 1 to 20, with `--dims N`" in text
    assert "256 of a time step, 256 of a clip, projected to 4 |" in text
    assert "for the readout" not in text
    assert is_ours(tmp_path / "short" / CARD_NAME)
    encoder.config = dataclasses.replace(encoder.config, readout=Readout(layer=1))
    encoder.save_pretrained(tmp_path / "other")
    assert "for the readout layer last, mel concat" in (tmp_path / "other" / CARD_NAME).read_text()


def test_an_edited_card_stays_and_an_unedited_one_follows_the_checkpoint(make_encoder, tmp_path, caplog):
    encoder, path = make_encoder(), tmp_path / "sounds" / CARD_NAME
    encoder.save_pretrained(path.parent)
    before = path.read_text()
    encoder.config = dataclasses.replace(encoder.config, readout=Readout(pool="mean_std"))
    encoder.save_pretrained(path.parent)
    assert "`mean_std`" in path.read_text()
    assert "`mean_std`" not in before
    assert not caplog.records
    path.write_text(path.read_text().replace("license: unknown", "license: mit"))
    mine = path.read_bytes()
    encoder.save_pretrained(path.parent, card=Card(license="cc0-1.0"))
    assert path.read_bytes() == mine
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{path}: edited" in caplog.text


@pytest.mark.parametrize("content", [b"# mine\n", b"\xff\xfe\x00", b""])
def test_a_card_of_somebody_else_stays_whatever_is_in_it(make_encoder, tmp_path, content):
    path = tmp_path / "sounds" / CARD_NAME
    path.parent.mkdir()
    path.write_bytes(content)
    make_encoder().save_pretrained(path.parent)
    assert path.read_bytes() == content
    assert (path.parent / "model.safetensors").exists()


def test_a_folder_in_the_cards_place_is_refused_and_nothing_is_lost(make_encoder, tmp_path):
    (tmp_path / "sounds" / CARD_NAME).mkdir(parents=True)
    with pytest.raises(ValueError, match="a folder"):
        make_encoder().save_pretrained(tmp_path / "sounds")
    assert [path.name for path in (tmp_path / "sounds").iterdir()] == [CARD_NAME]


def test_the_bundled_card_says_of_its_checkpoint_what_the_config_says():
    """After a change of the checkpoint: write what `rewrite_card` returns."""
    encoder = load_model()
    parameters = encoder_size({name: value.numel() for name, value in encoder.network.state_dict().items()})
    text = BUNDLED_CARD.read_text(encoding="utf-8")
    assert text == rewrite_card(text, encoder.config, parameters, projection=encoder.projection)
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert f"{card.data.eval_results[0].metric_value} %" in card.text


def test_the_bundled_weights_keep_their_card_under_another_name(tmp_path):
    encoder = load_model()
    encoder.save_pretrained(tmp_path / "mine")
    content = (tmp_path / "mine" / CARD_NAME).read_text()
    assert 'load_model("mine")' in content
    assert "36.9 h" in content
    assert "65.0 %" in content
    assert ModelCard(content).data.model_name == "mine"
    assert is_ours(tmp_path / "mine" / CARD_NAME)
    with_bias = next(value for name, value in encoder.network.named_parameters() if name.endswith("bias"))
    with_bias.add_(0.01)
    encoder.save_pretrained(tmp_path / "other")
    assert "65.0 %" not in (tmp_path / "other" / CARD_NAME).read_text()


def test_the_page_of_the_documentation_begins_below_the_header():
    page = Path("docs/model_card.md").read_text()
    path, _, line = page.split('"')[1].partition(":")
    lines = Path(path).read_text().splitlines()
    assert lines[int(line) - 1].startswith("# ")
    assert yaml.safe_load("\n".join(lines[1 : int(line) - 3]))
