"""Tables of labelled clips, and what no classifier can be fitted on."""

import numpy as np
import pytest

from maeast_upstream.classification.labelled_clips import describe_counts, read_clips, splits_of, targets_of


@pytest.fixture
def table(tmp_path):
    def write(*rows, header="path,label"):
        (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
        return tmp_path / "labels.csv"

    return write


GOOD = ("a.wav,dog", "b.wav,dog", "c.wav,cat", "d.wav,cat")


def test_a_table_without_splits_is_all_train(table):
    clips = read_clips(table(*GOOD), multi_label=False)
    assert [clip.labels for clip in clips] == [("dog",), ("dog",), ("cat",), ("cat",)]
    assert set(splits_of(clips)) == {"train"}
    assert targets_of(clips, ("cat", "dog")).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert describe_counts(clips) == "4 clips of 2 labels"


def test_several_labels_are_joined_by_semicolons_or_stand_in_several_rows(table):
    rows = ["a.wav,dog; cat", "b.wav,dog", "b.wav,cat", "c.wav,cat;cat"]
    clips = read_clips(table(*rows), multi_label=True)
    assert [clip.labels for clip in clips] == [("dog", "cat"), ("dog", "cat"), ("cat",)]
    assert targets_of(clips, ("cat", "dog")).tolist() == [[1, 1], [1, 1], [1, 0]]


def test_parts_of_a_file_are_clips_of_their_own(table):
    rows = ["a.wav,dog,0,100", "a.wav,cat,100,200", "b.wav,dog,0,100", "b.wav,cat,50,"]
    clips = read_clips(table(*rows, header="path,label,start_ms,end_ms"), multi_label=False)
    assert [(clip.start_ms, clip.end_ms) for clip in clips] == [(0, 100), (100, 200), (0, 100), (50, None)]


def test_labels_with_a_semicolon_are_noted_where_they_are_not_split(table, caplog):
    read_clips(table("a.wav,dog;cat", "b.wav,dog;cat", "c.wav,cat", "d.wav,cat"), multi_label=False)
    assert "--multi-label" in caplog.text


@pytest.mark.parametrize(
    ("rows", "header", "problem"),
    [
        (["a.wav,dog", "b.wav,dog"], "path,label", "only one label, 'dog'"),
        ([*GOOD, "e.wav,cow"], "path,label", "'cow' has one clip"),
        ([*GOOD, "a.wav,cat"], "path,label", "row 5 gives .*a.wav the label 'cat', and .*row 1 'dog'; --multi-label"),
        ([*GOOD, "e.wav,  "], "path,label", "row 5 has no label"),
        ([*GOOD, "a.wav,dog"], "path,label", "row 5"),
        (["a.wav,dog,train", "b.wav,cat,train", "c.wav,cow,valid"], "path,label,split", "'cow' is in valid only"),
        (["a.wav,dog,train", "b.wav,cat,train", "c.wav,cow,test"], "path,label,split", "'cow' is in test only"),
        (["a.wav,dog,valid", "b.wav,cat,test"], "path,label,split", "no clip in split train"),
        (["a.wav,dog,train", "b.wav,dog,train", "c.wav,cat,train"], "path,label,split", "'cat' has one clip"),
        (["a.wav,dog,train", "b.wav,cat,"], "path,label,split", "row 2 has no split"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line_that_names_it(table, rows, header, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        read_clips(table(*rows, header=header), multi_label=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["dog;;cat", "dog;", ";", "dog; ;cat"])
def test_an_empty_label_among_several_is_refused(table, label):
    with pytest.raises(ValueError, match="row 5: an empty label"):
        read_clips(table(*GOOD, f"e.wav,{label}"), multi_label=True)


def test_rows_of_a_clip_in_two_splits_are_refused(table):
    rows = ["a.wav,dog,train", "b.wav,cat,train", "a.wav,cat,valid"]
    with pytest.raises(ValueError, match=r"row 3 puts .*a\.wav in valid, and .*row 1 in train"):
        read_clips(table(*rows, header="path,label,split"), multi_label=True)


def test_a_label_with_one_clip_in_train_can_be_fitted_where_valid_chooses(table):
    rows = ["a.wav,dog,train", "b.wav,cat,train", "c.wav,dog,valid"]
    clips = read_clips(table(*rows, header="path,label,split"), multi_label=False)
    assert np.array_equal(splits_of(clips), ["train", "train", "valid"])
