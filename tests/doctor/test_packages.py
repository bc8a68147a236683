import platform
from importlib import metadata

import pytest

from dpinn.doctor import Finding, packages
from dpinn.doctor.packages import others, own_package, package, python, requirements, torch_build
from dpinn.errors import DpinnError


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions to be found instead of those that are installed."""
    pretended: dict[str, str | None] = {}
    real = packages._version
    monkeypatch.setattr(packages, "_version", lambda name: pretended.get(name, real(name)))
    return pretended


def test_what_is_installed_here_is_within_the_ranges() -> None:
    for name in ("lightning", "mlflow"):
        assert package(name) == Finding(name, "ok", metadata.version(name))
    assert python("python") == Finding("python", "ok", platform.python_version())
    torch = torch_build("torch")
    assert torch.state == "ok"
    assert torch.text.startswith(metadata.version("torch").partition("+")[0])
    assert "CUDA" in torch.text
    assert own_package("dpinn").text.startswith(f"{metadata.version('dpinn')}, from /")
    found = others("other packages")
    assert found.state == "ok"
    assert f"numpy {metadata.version('numpy')}, " in found.text
    assert "torch 2" not in found.text


def test_another_version_is_a_problem_whose_remedy_is_the_pip_line(
    versions: dict[str, str | None],
) -> None:
    versions["lightning"] = "3.0.1"
    assert package("lightning") == Finding(
        "lightning",
        "problem",
        "3.0.1 is outside of <3,>=2.6",
        "pip install -c constraints.txt 'lightning<3,>=2.6', in dpinn's source folder, where "
        "constraints.txt has the tested versions",
    )
    versions["lightning"] = "2.7.0rc1"  # somebody's own choice, within the range
    assert package("lightning").state == "ok"


def test_packages_that_are_shown_together_are_named_where_they_are_wrong(
    versions: dict[str, str | None],
) -> None:
    versions |= {"scipy": "1.0", "tqdm": None}
    found = others("other packages")
    assert found.state == "problem"
    assert found.text == "scipy 1.0 is outside of >=1.12, tqdm not installed"
    assert "'scipy>=1.12' 'tqdm>=4.66'" in found.remedy


def test_deepspeed_may_be_absent_but_not_of_another_version(
    versions: dict[str, str | None],
) -> None:
    versions["deepspeed"] = None
    found = package("deepspeed")
    assert (found.state, found.remedy) == ("absent", "")
    versions["deepspeed"] = "0.1"
    assert package("deepspeed").state == "problem"


def test_tools_of_the_tests_are_not_asked_for() -> None:
    assert {"torch", "deepspeed", "numpy"} <= set(requirements())
    assert not {"pytest", "heavyball", "ruff"} & set(requirements())


def test_another_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.1")
    found = python("python")
    assert (found.state, found.text) == ("problem", "3.9.1 is outside of >=3.11")
    assert "pip install -c constraints.txt" in found.remedy


def test_sources_that_were_never_installed_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    for function in ("version", "requires", "metadata"):
        monkeypatch.setattr(packages.metadata, function, missing)
    assert own_package("dpinn").state == "problem"
    assert python("python").state == "ok"
    with pytest.raises(DpinnError, match=r"not installed.*pip install"):
        package("mlflow")
