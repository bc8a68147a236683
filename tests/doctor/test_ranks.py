import socket

import pytest
import torch
from torch import distributed as dist

from dpinn.doctor import ranks
from dpinn.doctor.ranks import gloo, interface_of, local_addresses, nccl
from dpinn.errors import DpinnError


def test_sockets_tell_their_addresses() -> None:
    before = set(local_addresses())
    with socket.create_server(("127.0.0.3", 0)) as listening:
        assert set(local_addresses()) - before == {"127.0.0.3"}
        with socket.create_connection(listening.getsockname(), source_address=("127.0.0.4", 0)):
            assert set(local_addresses()) - before == {"127.0.0.3", "127.0.0.4"}
    with socket.create_server(("0.0.0.0", 0)):
        assert set(local_addresses()) == before


def test_the_loop_is_an_interface_and_a_foreign_address_is_none() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") is None


def test_two_ranks_agree_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    found = gloo("gloo")
    assert found.state == "ok"
    assert (
        found.text == "2 ranks agree on a sum, over 127.0.0.1 (lo), which is for this machine alone"
    )


def test_an_interface_that_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "missing0")
    found = gloo("gloo")
    assert found.state == "problem"
    assert "missing0" in found.text
    assert "GLOO_SOCKET_IFNAME" in found.remedy


def answering(monkeypatch: pytest.MonkeyPatch, *answers: tuple[float, list[str]]) -> None:
    """Let the ranks have answered with these sums and addresses."""
    told = [{"sum": total, "addresses": addresses} for total, addresses in answers]
    monkeypatch.setattr(ranks, "on_ranks", lambda *_: told)


def test_a_loop_within_the_machine_is_a_problem_of_a_job_on_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    answering(monkeypatch, (3.0, ["127.0.1.1"]), (3.0, ["127.0.1.1"]))
    found = gloo("gloo")
    assert (found.state, "cannot reach" in found.text) == ("problem", True)
    assert "GLOO_SOCKET_IFNAME" in found.remedy
    answering(monkeypatch, (3.0, ["203.0.113.9"]), (3.0, ["203.0.113.9"]))
    assert gloo("gloo").state == "ok"


def test_a_wrong_sum_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, (3.0, []), (2.0, []))
    found = gloo("gloo")
    assert (found.state, found.text) == ("problem", "the ranks' sum is 2 instead of 3")


def test_nccl_without_a_gpu_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert nccl("NCCL").state == "absent"
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert nccl("NCCL").text == "torch is built without it"


@pytest.mark.parametrize(("gpus", "count"), [(1, 1), (8, 2)])
def test_nccl_gets_a_rank_on_each_of_up_to_two_gpus(
    gpus: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 3))

    def fail(function: str, number: int, device_type: str, *_: object) -> None:
        raise DpinnError(f"{number} on {device_type}: unhandled system error")

    monkeypatch.setattr(ranks, "on_ranks", fail)
    found = nccl("NCCL")
    assert found.state == "problem"
    assert found.text == f"2.28.3: {count} on cuda: unhandled system error"
    assert "NCCL_SOCKET_IFNAME" in found.remedy
