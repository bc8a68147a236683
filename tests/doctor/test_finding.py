import warnings

import pytest

from dpinn.doctor import Finding, checks
from dpinn.doctor.finding import INSTALL, REPORT, examine
from dpinn.errors import DpinnError


def broken(name: str) -> Finding:
    raise ValueError("cannot open https://me:secret@host/x\nTraceback ...")


def stopped(name: str) -> Finding:
    raise DpinnError("`scontrol ping` did not answer (ten; seconds); run it yourself")


def unimportable(name: str) -> Finding:
    raise ImportError("No module named 'torch'")


def noisy(name: str) -> Finding:
    warnings.warn("advice of a library", UserWarning, stacklevel=1)
    return Finding(name, "ok", "fine")


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        (broken, Finding("it", "problem", "ValueError: cannot open https://host/x", REPORT)),
        (stopped, Finding("it", "problem", "`scontrol ping` did not answer (ten; seconds)",
                          "run it yourself")),
        (unimportable, Finding("it", "problem", "ImportError: No module named 'torch'", INSTALL)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_a_check_that_fails_is_a_problem_with_a_remedy(
    function: object, finding: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpinn.doctor.checks.it", function, raising=False)
    assert examine("it", "checks.it") == finding


def test_a_module_that_cannot_be_imported_is_a_problem_of_its_checks() -> None:
    assert examine("it", "no_such_module.it") == Finding(
        "it", "problem", "ModuleNotFoundError: No module named 'dpinn.doctor.no_such_module'",
        INSTALL,
    )  # fmt: skip


def test_libraries_do_not_talk_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpinn.doctor.checks.it", noisy, raising=False)
    with warnings.catch_warnings(record=True) as said:
        assert examine("it", "checks.it").state == "ok"
    assert said == []


def test_every_check_is_there() -> None:
    import importlib

    for check in checks.CHECKS.values():
        module, _, function = check.rpartition(".")
        assert callable(getattr(importlib.import_module(f"dpinn.doctor.{module}"), function))
