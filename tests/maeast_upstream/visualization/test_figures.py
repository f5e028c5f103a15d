"""Pictures show names as they are, whatever is in them."""

import os
import sys
import warnings

import pytest
from matplotlib.figure import Figure

from maeast_upstream.visualization.figures import MAX_NAME, draw_legend, drawing, drawn_name

NAMES = [
    "take_$1_$2.wav",
    "$\\undefined$",
    "_hidden.wav",
    "two\nlines\t%s {x} \\frac",
    "日本語 é \U0001f600",
    os.fsdecode(b"caf\xe9.wav"),
    "<script>alert(1)</script>",
    "x" * 255,
    "",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_name_is_drawn_as_it_is(tmp_path, name, suffix):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawing(tmp_path / f"x.{suffix}", 5, 4) as figure:
            axes = figure.subplots()
            lines = [axes.plot([0, 1])[0] for _ in range(2)]
            draw_legend(axes, lines, [name, "other"])
            draw_legend(figure, lines, ["other", name], loc="outside upper center")
            figure.suptitle(drawn_name(name), parse_math=False)
    assert (tmp_path / f"x.{suffix}").stat().st_size > 1000
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [drawn_name(name), "other"]


def test_a_drawn_name_is_one_line_of_bounded_length():
    assert drawn_name("a$b_%.wav") == "a$b_%.wav"
    assert drawn_name("a\nb\x07\u202ec") == "a b  c"
    assert drawn_name(os.fsdecode(b"\xe9")) == r"\xe9"
    assert len(drawn_name("x" * 1000)) <= MAX_NAME
    assert drawn_name("begin" + "x" * 1000 + "end.wav").startswith("begin")
    assert drawn_name("begin" + "x" * 1000 + "end.wav").endswith("end.wav")


def test_characters_that_the_font_lacks_are_counted_in_a_line(tmp_path, caplog):
    with drawing(tmp_path / "x.png", 3, 2) as figure:
        figure.suptitle("日本")
    assert caplog.messages == [
        f"{tmp_path}/x.png: matplotlib's font lacks 2 characters of the names, which are drawn as boxes"
    ]


def test_a_missing_matplotlib_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install"), drawing(tmp_path / "x.png", 3, 2) as figure:
        assert isinstance(figure, Figure)
