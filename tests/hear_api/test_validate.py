import os
import subprocess
import sys
from pathlib import Path

import pytest

VALIDATORS = sorted(Path(sys.prefix).glob("hearvalidator-*"))


def validate(version, tmp_path, *arguments):
    """hear-validator as a user runs it, from a folder that is not the checkout."""
    command = [
        sys.executable,
        "-m",
        "hear_api.validate",
        "hear_api",
        "-d",
        "cpu",
        *map(str, arguments),
    ]
    environment = {**os.environ, "PYTHONPATH": str(version)}
    return subprocess.run(
        command,
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


@pytest.mark.parametrize("version", VALIDATORS, ids=lambda path: path.name)
@pytest.mark.parametrize("kind", ["bundled", "official patch", "official frame"])
def test_hear_validator_passes_without_a_warning(version, kind, tmp_path, request):
    arguments = []
    if kind != "bundled":
        arguments = [
            "--model",
            request.getfixturevalue("write_published")(kind.split()[1]),
        ]
    done = validate(version, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Looks good!" in done.stdout
    assert warnings_of(done) == []


def test_both_versions_of_the_validator_are_there():
    assert [path.name for path in VALIDATORS] == [
        "hearvalidator-2021.0.2",
        "hearvalidator-2021.0.6",
    ]


def test_hear_validator_sees_that_a_checkpoint_is_missing(tmp_path):
    done = validate(VALIDATORS[-1], tmp_path, "--model", "nowhere.pt")
    assert done.returncode == 1
    assert "nowhere.pt" in done.stderr


def test_without_a_validator_the_way_to_install_it_is_told(tmp_path):
    done = validate("", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: hear-validator is not installed: pip install --no-deps hearvalidator\n"
