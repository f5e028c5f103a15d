"""Long audio in bounded memory, measured in a process of its own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

MEASURE = """
import sys, torch
torch.set_num_threads(2)
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.encoder import Encoder
from maeast_upstream.model import preset
size, minutes, precision = sys.argv[1], float(sys.argv[2]), sys.argv[3]
config = EncoderConfig(model=preset(size), normalisation=Normalisation(mean=-6, std=4))
encoder = Encoder(config, precision).eval().requires_grad_(False)
clip = torch.empty(round(minutes * 60 * 16000)).uniform_(-0.1, 0.1)
encoded = encoder.encode([clip], layers=[encoder.num_layers])
assert encoded.lengths[0] == (1 + (len(clip) - 400) // 160) // 16
# VmHWM, not getrusage: that also counts what the parent held when it forked
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 2**20)
"""


QUANTISE = """
import torch
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines import attach
from maeast_upstream.model import preset
config = EncoderConfig(model=preset("base"), normalisation=Normalisation(mean=-6, std=4))
encoder = Encoder(config).eval().requires_grad_(False)
assert attach(encoder, "openvino", "int8").engine == "openvino"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 2**20)
"""


def peak_gib(size, minutes, precision="fp32"):
    command = [sys.executable, "-c", MEASURE, size, str(minutes), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_three_minutes_of_the_tiny_model_fit_in_three_quarters_of_a_gib():
    assert peak_gib("tiny", 3) < 0.75


@pytest.mark.stress
def test_an_hour_of_the_base_model_fits_in_2_gb():
    assert peak_gib("base", 60, "bf16") < 2e9 / 2**30


@pytest.mark.stress
def test_quantising_the_base_model_takes_at_most_1_6_gib():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", QUANTISE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.6
