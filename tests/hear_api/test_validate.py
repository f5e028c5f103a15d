import os
import subprocess
import sys
from pathlib import Path

import pytest

import hear_api.validate

pytestmark = pytest.mark.slow

VALIDATORS = sorted(Path(sys.prefix).glob("hearvalidator-*"))


def validate(version, tmp_path, *arguments, command=("-m", "hear_api.validate")):
    """hear-validator as a user runs it, from a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(version)}
    return subprocess.run(
        [sys.executable, *command, "hear_api", "-d", "cpu", *map(str, arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def warnings_of(done):
    """What it warned of, without the reminder that it prints in every run."""
    lines = [line for line in done.stderr.splitlines() if "Warning: " in line]
    return [line for line in lines if "A common bug" not in line]


ONE_AFTER_THE_OTHER = """
import sys
from hear_api import validate
*arguments, first, second = sys.argv[1:]
for model in (first, second):
    sys.argv[1:] = [*arguments, "--model", model]
    validate.main()
"""
"""The imports, most of a run, once for two checkpoints."""


@pytest.mark.parametrize("version", VALIDATORS, ids=lambda path: path.name)
def test_hear_validator_passes_without_a_warning(version, tmp_path):
    done = validate(version, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Looks good!" in done.stdout
    assert warnings_of(done) == []


@pytest.mark.parametrize("version", VALIDATORS, ids=lambda path: path.name)
def test_hear_validator_passes_with_the_published_kinds_of_checkpoint(version, tmp_path, write_published):
    both = write_published("patch"), write_published("frame")
    done = validate(version, tmp_path, *both, command=("-c", ONE_AFTER_THE_OTHER))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Looks good!") == 2
    assert warnings_of(done) == []


def test_both_versions_of_the_validator_are_there():
    assert [path.name for path in VALIDATORS] == [
        "hearvalidator-2021.0.2",
        "hearvalidator-2021.0.6",
    ]


def test_without_a_validator_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setattr(hear_api.validate, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^error: hear-validator is not installed: pip install --no-deps hearv"):
        hear_api.validate.main()
