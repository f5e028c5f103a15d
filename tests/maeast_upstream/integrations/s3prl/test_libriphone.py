"""Our own corpus class for s3prl's ``-d ctc``, held to what its description says."""

from pathlib import Path

import pytest
from superb_sets import WORDS, ctc

from maeast_upstream.integrations.s3prl.overlay.corpus.libriphone import LibriPhoneDataset


class Numbers:
    """Phones to numbers as s3prl's word encoder does: in the order of first use, with an end."""

    def encode(self, s):
        return [hash(phone) for phone in s.split(" ")] + [1]


@pytest.fixture
def corpus(tmp_path):
    fields = ctc(tmp_path)
    return {"path": fields["path"], "lexicon": fields["lexicon"], "name": "libriphone", "ratio": 1.0, "offset": 0}


def dataset(corpus, split="train-clean-100", bucket=1, **options):
    return LibriPhoneDataset([split], Numbers(), bucket, **{**corpus, **options})


def test_an_item_is_a_path_with_its_phones(corpus):
    path, numbers = dataset(corpus)[0]
    assert path.endswith(".flac")
    lines = (Path(path).parent / "1-2.trans.txt").read_text().splitlines()
    text = dict(line.split(" ", 1) for line in lines)[Path(path).stem]
    spoken = " ".join(WORDS[word.lower()] for word in text.split())
    assert numbers == Numbers().encode(spoken)


def test_most_phones_come_first(corpus):
    for ascending in (False, True):
        lengths = [len(numbers) for _, numbers in dataset(corpus, ascending=ascending)]
        assert lengths == sorted(lengths, reverse=not ascending)
        assert len(set(lengths)) > 1


def test_a_bucket_is_always_full_where_there_are_enough(corpus):
    data, alone = dataset(corpus, bucket=3), dataset(corpus)
    assert len(data) == len(alone) == 8
    for index in range(8):
        start = min(index, 5)
        assert data[index] == [alone[place] for place in range(start, start + 3)]
    assert len(dataset(corpus, bucket=100)[0]) == 8


def test_several_splits_are_one_set(corpus):
    assert len(LibriPhoneDataset(["train-clean-100", "dev-clean"], Numbers(), 1, **corpus)) == 10


def test_the_first_pronunciation_counts(corpus, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text(lexicon.read_text() + "YES N OW1\n")
    more = tmp_path / "more.txt"
    more.write_text("STOP HH AO1 L T\n")
    assert [*dataset({**corpus, "lexicon": [*corpus["lexicon"], more]})] == [*dataset(corpus)]


def test_what_is_missing_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        dataset(corpus, "train-other-500")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.flac"):
        dataset(corpus, "empty")
    with pytest.raises(ValueError, match="the lexicon has no word"):
        dataset({**corpus, "lexicon": []})
    (tmp_path / "dev-clean" / "1" / "2" / "1-2.trans.txt").write_text("1-2-0000 YES\n")
    with pytest.raises(ValueError, match=r"1-2-0001\.flac: no transcript"):
        dataset(corpus, "dev-clean")
