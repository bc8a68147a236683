"""One thread per process, whatever the machine: tests start processes beside each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
