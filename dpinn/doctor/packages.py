"""Python and the packages: which versions, and whether dpinn's requirements allow them."""

from __future__ import annotations

import platform
import shlex
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from dpinn.doctor.finding import INSTALL, Finding
from dpinn.errors import DpinnError, first_line

OPTIONAL = {"deepspeed": "only trainer.strategy deepspeed_stage_* needs it"}
"""Extras that a training may use, and what for; the other extras are for tests and benchmarks."""

SHOWN_ALONE = ("torch", "lightning", "mlflow", "deepspeed")


def python(name: str) -> Finding:
    """The interpreter."""
    try:
        required = metadata.metadata("dpinn")["Requires-Python"]
    except metadata.PackageNotFoundError:
        required = ""
    found = platform.python_version()
    if not SpecifierSet(required).contains(found, prereleases=True):
        remedy = f"make an environment with Python {required}, and there: {INSTALL}"
        return Finding(name, "problem", f"{found} is outside of {required}", remedy)
    return Finding(name, "ok", found)


def own_package(name: str) -> Finding:
    """Dpinn itself, and from where it is imported."""
    import dpinn

    place = Path(dpinn.__file__).parent
    try:
        return Finding(name, "ok", f"{metadata.version('dpinn')}, from {place}")
    except metadata.PackageNotFoundError:
        return Finding(name, "problem", f"runs from {place} but is not installed", INSTALL)


def torch_build(name: str) -> Finding:
    """PyTorch and what it was built for."""
    try:
        import torch
    except (ImportError, OSError) as error:  # the latter for a shared library that is not there
        text = f"cannot be imported ({first_line(error)})"
        return Finding(name, "problem", text, _install(name))
    # The package's own version tells the build (2.13.0+cpu), the metadata does not always.
    version = str(torch.__version__)
    finding = _judge(name, requirements()[name], version)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return replace(finding, text=f"{finding.text}, {build}")


def package(name: str) -> Finding:
    """A package by its version."""
    return _judge(name, requirements()[name], _version(name))


def others(name: str) -> Finding:
    """The other packages that dpinn needs, on one line."""
    findings = [
        _judge(package, requirement, _version(package))
        for package, requirement in requirements().items()
        if package not in SHOWN_ALONE
    ]
    wrong = [f for f in findings if f.state != "ok"]
    if not wrong:
        return Finding(name, "ok", ", ".join(f"{f.name} {f.text}" for f in findings))
    text = ", ".join(f"{f.name} {f.text}" for f in wrong)
    return Finding(name, "problem", text, _install(*(f.name for f in wrong)))


def requirements() -> dict[str, Requirement]:
    """What dpinn requires, by package, the optional ones of a training included.

    Raises:
        DpinnError: dpinn runs from its sources and was never installed.
    """
    try:
        lines = metadata.requires("dpinn") or []
    except metadata.PackageNotFoundError as error:
        raise DpinnError(
            f"what it requires is not known, as it is not installed; {INSTALL}"
        ) from error
    found: dict[str, Requirement] = {}
    for line in lines:
        requirement = Requirement(line)
        extras = ("", *OPTIONAL)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            found[canonicalize_name(requirement.name)] = requirement
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _judge(name: str, requirement: Requirement, version: str | None) -> Finding:
    if version is None and name in OPTIONAL:
        return Finding(name, "absent", f"not installed; {OPTIONAL[name]}")
    if version is None:
        return Finding(name, "problem", "not installed", _install(name))
    if not requirement.specifier.contains(version, prereleases=True):
        text = f"{version} is outside of {requirement.specifier}"
        return Finding(name, "problem", text, _install(name))
    return Finding(name, "ok", version)


def _install(*packages: str) -> str:
    required = requirements()
    wanted = [f"{name}{required[name].specifier}" for name in packages]
    command = shlex.join(["pip", "install", "-c", "constraints.txt", *wanted])
    return f"{command}, in dpinn's source folder, where constraints.txt has the tested versions"
