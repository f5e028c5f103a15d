import pytest

from pretrain.targets.names import match_names

CLIPS = ["a/one.wav", "a/two.wav", "b/one.wav"]


@pytest.mark.parametrize("folder", ["", "./", "corpus/", "/home/me/data/corpus/"])
def test_a_table_made_in_another_folder_matches(folder):
    names = [folder + name for name in ["b/one.wav", "a/two.wav", "a/other.wav"]]
    assert match_names(names, CLIPS, "t").tolist() == [2, 1, -1]


def test_names_below_a_folder_of_the_corpus_match_where_they_are_one_clip():
    assert match_names(["two.wav", "one.wav", "three.wav"], CLIPS, "t").tolist() == [1, -1, -1]


def test_names_as_they_are_go_before_names_without_folders():
    assert match_names(["a/one.wav", "x/a/two.wav"], CLIPS, "t").tolist() == [0, -1]


def test_a_clip_whose_name_is_not_utf8_matches_the_name_in_a_table():
    assert match_names(["caf\\xe9.wav"], ["caf\udce9.wav"], "t").tolist() == [0]


@pytest.mark.parametrize("names", [[], ["a/three.wav"], ["one.wav"], ["wav"]])
def test_a_table_of_other_clips_is_refused_in_one_line(names):
    with pytest.raises(ValueError, match=rf"^table: none of its {len(names)} names is a clip of the corpus: .*$"):
        match_names(names, CLIPS, "table")
