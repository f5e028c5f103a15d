"""README's blocks are run as they are printed, see `pages`."""

import pytest
from pages import README, blocks, run_block, working_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return working_folder(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("block", blocks(README, "python", "sh"), ids=str)
def test_a_block_runs_and_prints_what_it_says(block, folder):
    run_block(block, folder)


def test_the_readme_stays_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200
