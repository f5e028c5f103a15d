"""Which encoder made what."""

import pytest

from maeast_upstream import load_model
from maeast_upstream.fingerprint import fingerprint, load_same


def test_the_recorded_checkpoint_is_loaded_and_another_refused(tmp_path):
    model = load_model()
    digest = fingerprint(model)
    assert fingerprint(load_same("bundled", digest)) == digest
    model.save_pretrained(tmp_path / "moved")
    assert fingerprint(load_same("elsewhere", digest, given=str(tmp_path / "moved"))) == digest
    with pytest.raises(ValueError, match="not the checkpoint that the vectors were made with"):
        load_same("bundled", "0" * 64)
    with pytest.raises(ValueError, match="--checkpoint names the place where it is now"):
        load_same(str(tmp_path / "gone"), digest)
