import io
import json

import pytest

from dpinn.cli import main
from dpinn.doctor import Finding
from dpinn.doctor.command import line_of

LONG = Finding("gloo", "problem", "two ranks do not agree at all", "set GLOO_SOCKET_IFNAME to lo")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fine(name: str) -> Finding:
    return Finding(name, "ok", "2.13.0")


def bad(name: str) -> Finding:
    return Finding(name, "problem", "9 is outside of <9", "pip install 'x<9'")


def poor(name: str) -> Finding:
    return Finding(name, "warning", "slow", "go faster")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    for function in (fine, bad, poor):
        monkeypatch.setattr(f"dpinn.doctor.checks.{function.__name__}", function, raising=False)
    monkeypatch.setattr("dpinn.doctor.checks.CHECKS", {"torch": "checks.fine", "x y": "checks.bad"})
    return monkeypatch


def test_a_problem_is_followed_by_its_remedy_and_exit_code_1(
    checks: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (
        "ok       torch  2.13.0\n"
        "problem  x y    9 is outside of <9\n"
        "                -> pip install 'x<9'\n"
        "1 problem, no warnings\n"
    )


def test_a_warning_alone_is_exit_code_0(
    checks: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.setattr("dpinn.doctor.checks.CHECKS", {"torch": "checks.fine", "x": "checks.poor"})
    main(["doctor"])
    assert capsys.readouterr().out.endswith("-> go faster\nno problems, 1 warning\n")


def test_json_is_one_object(checks: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    assert end.value.code == 1
    assert json.loads(capsys.readouterr().out) == {
        "problems": 1,
        "warnings": 0,
        "findings": [
            {"name": "torch", "state": "ok", "text": "2.13.0", "remedy": ""},
            {
                "name": "x y",
                "state": "problem",
                "text": "9 is outside of <9",
                "remedy": "pip install 'x<9'",
            },
        ],
    }


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_of_several_ranks_the_first_one_answers(
    variable: str, checks: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.setenv(variable, "1")
    main(["doctor"])
    assert capsys.readouterr() == ("", "")
    checks.setenv(variable, "0")
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert "1 problem" in capsys.readouterr().out


def test_a_terminal_gets_folded_lines_and_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    assert line_of(LONG, 4, Terminal()).splitlines() == [
        "\x1b[1;31mproblem\x1b[0m  gloo  two ranks do not agree at",
        "               all",
        "               -> set GLOO_SOCKET_IFNAME",
        "                  to lo",
    ]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in line_of(LONG, 4, Terminal())
    assert len(line_of(LONG, 4, io.StringIO()).splitlines()) == 2
