import pytest

from dpinn.doctor.threads import shared_cores


@pytest.mark.parametrize(
    ("ranks", "threads", "cores", "state", "remedy"),
    [
        (1, 16, 16, "ok", ""),
        (8, 2, 16, "ok", ""),
        (8, 16, 16, "warning", "export OMP_NUM_THREADS=2"),
        (3, 8, 16, "warning", "export OMP_NUM_THREADS=5"),
        (1, 64, 8, "warning", "export OMP_NUM_THREADS=8"),
        (8, 1, 4, "warning", "start at most 4 ranks here, or ask for more cores (--cpus-per-task)"),
    ],
)
def test_ranks_that_share_cores(
    ranks: int, threads: int, cores: int, state: str, remedy: str
) -> None:
    found = shared_cores("threads", ranks, threads, cores)
    assert (found.state, found.remedy) == (state, remedy)
