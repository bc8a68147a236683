"""Configuration files as YAML 1.2 reads them, and what is wrong with those that are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse import set_loader

from dpinn.errors import DpinnError

ADVICE = "write keys and values, such as problem: dpinn.problems.Burgers"

UNICODE = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Beginnings of files in other encodings."""


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which ``off`` is a word and ``1:30`` no number, while ``1e-3`` is one."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def _load(text: str) -> Any:
    """What the parser loads of files and of values on the command line."""
    value = yaml.load(text, Loader=_Loader)
    # On the command line `{a,b}` and `a:` are texts.
    if isinstance(value, dict) and value and all(inner is None for inner in value.values()):
        keys = text.strip(" {}").replace(" ", "").split(",")
        if set(keys) == value.keys() or text.strip() == f"{next(iter(value))}:":
            return text
    return value


set_loader("yaml", _load, (yaml.YAMLError,))


def require_readable(arguments: Sequence[str]) -> None:
    """Refuse files among the arguments of a command that hold no configuration.

    Raises:
        DpinnError: naming file and line.
    """
    for option, value in _options(arguments):
        path = Path(value)
        is_read = option in ("--config", "-c") or path.suffix in (".yaml", ".yml")
        if is_read and path.is_file():
            _require_configuration(path)


def _options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of an option and what follows it, as ``--option value`` or ``--option=value``."""
    pairs = [(a, b) for a, b in pairwise(arguments) if a[:1] == "-"]
    return pairs + [(a, b) for a, equals, b in (x.partition("=") for x in arguments) if equals]


def _require_configuration(path: Path) -> None:
    text = _text(path)
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text[: found.start()].count("\n") + 1
        raise _refusal(
            path,
            line,
            f"YAML does not take the character #x{ord(found[0]):04x}; save the file as plain text "
            "in UTF-8",
        )
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark, lines = error.problem_mark or error.context_mark, text.splitlines()
        line = min(mark.line + 1 if mark is not None else 1, len(lines))
        if re.match(r"\s*\t", lines[line - 1]):
            problem = "a tab indents it, which YAML does not take; use spaces"
        else:
            problem = f"this is not YAML: {error.problem}"
        raise _refusal(path, line, problem) from error
    if content is None:
        raise _refusal(path, 1, f"the file is empty; {ADVICE}")
    if not isinstance(content, dict):
        line = next(n for n, words in enumerate(text.splitlines(), 1) if words.strip())
        raise _refusal(path, line, f"this is no mapping; {ADVICE}")


def _text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DpinnError(f"{path} cannot be read: {error.strerror}") from error
    for mark, encoding in UNICODE.items():
        if content.startswith(mark):
            raise _refusal(
                path,
                1,
                f"the file is in {encoding}; save it in UTF-8, for instance with "
                f"`iconv -f {encoding} -t UTF-8`",
            )
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise _refusal(path, line, "there is a zero byte, as in UTF-16; save the file in UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _refusal(
            path,
            line,
            f"the byte {content[error.start]:#04x} is not UTF-8, perhaps Latin-1; save the file "
            "in UTF-8",
        ) from error


def _refusal(path: Path, line: int, words: str) -> DpinnError:
    return DpinnError(f"the configuration {path}, line {line}: {words}")
