"""Long audio in bounded memory, measured in a process of its own."""

import subprocess
import sys

import pytest
from bad_files import write_sparse_wav

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


EMBED = """
import sys, torch
torch.set_num_threads(1)
from maeast_upstream import load_model
from maeast_upstream.extract.api import embed_files
from maeast_upstream.readout import Readout
hours = float(sys.argv[2])
(row,) = embed_files([sys.argv[1]], load_model(), readout=Readout(layer=1), workers=0, max_hours=24)
assert abs(row["end_ms"] - hours * 3_600_000) < 1
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024)
"""


def embed_peak_mib(folder, hours):
    write_sparse_wav(folder / "long.wav", round(hours * 3600))
    command = [sys.executable, "-c", EMBED, str(folder / "long.wav"), str(hours)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_ten_minutes_of_a_file_take_no_more_memory_than_two(tmp_path):
    # the samples of the eight minutes between are 31 MB, and their blocks of 600 s ahead of the model are bounded
    ten, two = (min(embed_peak_mib(tmp_path, minutes / 60) for _ in range(2)) for minutes in (10, 2))
    assert ten < two + 90


@pytest.mark.stress
def test_six_hours_of_a_file_fit_in_one_gb_decoding_included(tmp_path):
    assert embed_peak_mib(tmp_path, 6) < 1e9 / 2**20


@pytest.mark.stress
def test_an_hour_of_the_base_model_fits_in_2_gb():
    assert peak_gib("base", 60, "bf16") < 2e9 / 2**30


@pytest.mark.stress
def test_quantising_the_base_model_takes_at_most_1_6_gib():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", QUANTISE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.6
