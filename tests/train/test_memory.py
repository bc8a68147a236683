"""The allocator keeps what a step frees."""

import platform
import subprocess
import sys

import pytest

KEEPS = """
import torch
from dpinn.train.memory import keep_freed_memory
assert keep_freed_memory() is {glibc}

def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(20):
    torch.ones(2**20)
before = faults()
for _ in range(100):
    torch.ones(2**20)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_buffers_of_a_step_come_back_without_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEEPS.format(glibc=True)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000  # given back, 100 buffers of 4 MiB cost 1024 faults each
