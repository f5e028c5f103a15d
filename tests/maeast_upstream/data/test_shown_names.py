import pytest

from maeast_upstream.data.inputs import Segment, list_segments, with_shown_names
from maeast_upstream.data.shown_names import ShownNames


def test_addresses_that_differ_in_a_secret_only_have_names_of_their_own():
    names = ShownNames()
    addresses = [f"http://u:{password}@h/a.wav" for password in ("first", "second", "first", "third", "second")]
    expected = ["***", "***2", "***", "***3", "***2"]
    assert [names.name(address) for address in addresses] == [f"http://u:{mark}@h/a.wav" for mark in expected]
    assert names.name("http://u:first@h/b.wav") == "http://u:***@h/b.wav"


def test_members_of_a_tar_behind_a_password_keep_their_names():
    names = ShownNames()
    tar = "https://h/a.tar?sig=S3CRET"
    assert [names.name(f"{tar}/{name}", tar) for name in ("a.wav", "b.wav")] == [
        "https://h/a.tar?sig=***/a.wav",
        "https://h/a.tar?sig=***/b.wav",
    ]


def test_a_segment_is_opened_at_its_address_and_named_without_the_password():
    address = "http://u:S3CRET@h/a.wav"
    segments = [Segment(address, 3), Segment(address, error=f"{address}: S3CRET is wrong"), Segment("local:x@y.wav")]
    shown = "http://u:***@h/a.wav"
    assert list(with_shown_names(segments)) == [
        Segment(shown, 3, file=address),
        Segment(shown, file=address, error=f"{shown}: *** is wrong"),
        segments[2],
    ]


def test_errors_of_listing_name_no_password(tmp_path):
    def listing():
        yield Segment("a.wav")
        raise ValueError("http://u:S3CRET@h/m.csv: no rows")

    for fails in (lambda: list(with_shown_names(listing())), lambda: list_segments("memory://u:S3CRET@h/none.wav")):
        with pytest.raises(ValueError, match=r"u:\*\*\*@h") as error:
            fails()
        assert "S3CRET" not in str(error.value)
