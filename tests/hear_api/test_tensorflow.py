"""hear-validator as it comes, beside the real TensorFlow; needs both, which `make test-tensorflow` installs."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("tokens", ["bundled", "patch", "frame"])
def test_hear_validator_passes_beside_the_real_tensorflow(tokens, make_encoder, tmp_path):
    for name in ("tensorflow", "hearvalidator"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    command = [Path(sys.executable).parent / "hear-validator", "hear_api", "-d", "cpu"]
    if tokens != "bundled":
        make_encoder(tokens).save_pretrained(tmp_path / "model")
        command += ["--model", tmp_path / "model"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Looks good!" in done.stdout
    assert "Your timestamps" not in done.stderr
    print(f"tensorflow {version('tensorflow')}, hearvalidator {version('hearvalidator')}: {tokens} passes")
