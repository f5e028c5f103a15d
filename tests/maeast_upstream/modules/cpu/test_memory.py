import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from maeast_upstream.modules.cpu.memory import keep_freed_memory
if {keep}: keep_freed_memory()
for _ in range(10): torch.ones(10_000_000)  # the first ones make the heap grow
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_a_freed_tensor_is_used_again_without_clearing_its_pages():
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True).stdout)
        for keep in (False, True)
    )
    assert kept < 0.05 * given_back
