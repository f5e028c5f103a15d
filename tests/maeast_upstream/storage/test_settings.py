import pytest

from maeast_upstream.storage.settings import flatten, refuse_changes


def test_settings_are_named_by_their_section():
    assert dict(flatten({"a": 1, "b": {"c": None, "d": {"e": 2}}})) == {
        "a": 1,
        "b.c": None,
        "b.d.e": 2,
    }


def test_a_change_is_refused_with_both_values_and_the_remedy():
    with pytest.raises(ValueError, match=r"^run was begun with a\.b 1, not 2: begin anew$"):
        refuse_changes({"a": {"b": 1}}, {"a": {"b": 2}}, "run", "begin anew")


def test_what_may_change_may_change():
    refuse_changes({"a": {"b": 1}}, {"a": {"b": 2}}, "run", "begin anew", changeable={"a.b"})


def test_what_was_begun_by_an_older_version_may_lack_a_setting():
    refuse_changes({"seed": 0}, {"seed": 0, "brand_new": True}, "run", "begin anew")


def test_a_digest_is_told_as_what_it_is_of():
    before, now = {"inputs": {"segments": 6, "digest": "ab"}}, {"inputs": {"segments": 6, "digest": "cd"}}
    with pytest.raises(ValueError, match="e was begun with other inputs than there are now: give another -o"):
        refuse_changes(before, now, "e", "give another -o")


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (None, {"seconds": 1}, r"windows\.seconds None, not 1"),
        ({"seconds": 1}, None, "windows {'seconds': 1}, not None"),
    ],
)
def test_a_section_that_comes_or_goes_is_a_change(before, now, message):
    with pytest.raises(ValueError, match=f"run was begun with {message}: begin anew"):
        refuse_changes({"windows": before}, {"windows": now}, "run", "begin anew")
