"""Errors of collectives, told from others."""

import pytest
from torch import distributed as dist

from dpinn.errors import DpinnError
from dpinn.train.strategies.lost_rank import collective_timeout, lost_contact

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer "
    "[127.0.0.1]:42"
)
NCCL = (
    "NCCL communicator was aborted on rank 1. Original reason for failure was: watchdog timeout\n"
    "Exception raised from checkForNCCLErrorsInternal"
)

CUT_OFF = (
    "Application timeout caused pair closure",
    "Timed out waiting 12000ms for recv operation to complete",
)
"""What gloo says, without its name, where the other host no longer answers."""


def test_gloos_and_nccls_errors_become_one_short_sentence() -> None:
    assert lost_contact(RuntimeError(GLOO)) == "Connection closed by peer [127.0.0.1]:42"
    assert lost_contact(dist.DistBackendError(NCCL)) == "NCCL communicator was aborted on rank 1"
    for message in CUT_OFF:
        assert lost_contact(RuntimeError(message)) == message


def test_other_errors_are_none_of_them() -> None:
    for error in (RuntimeError("CUDA out of memory"), ValueError("gloo"), DpinnError("gloo"), None):
        assert lost_contact(error) is None


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPINN_COLLECTIVE_TIMEOUT_S", given)
    with pytest.raises(DpinnError, match="number of seconds above 0"):
        collective_timeout()


def test_the_timeout_is_ten_minutes_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPINN_COLLECTIVE_TIMEOUT_S", raising=False)
    assert collective_timeout().total_seconds() == 600
    monkeypatch.setenv("DPINN_COLLECTIVE_TIMEOUT_S", "5.5")
    assert collective_timeout().total_seconds() == 5.5
