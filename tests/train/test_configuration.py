"""Files that hold a configuration, and those that do not."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from dpinn.errors import DpinnError
from dpinn.train.compiling import CompileMode
from dpinn.train.configuration import require_readable
from dpinn.train.sharing import Shard

TEXT = "model:\n  compile: auto\n  note: größe\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("utf-16"), "line 1: the file is in UTF-16"),
        (TEXT.encode("utf-16-le"), "line 1: there is a zero byte, as in UTF-16"),
        (TEXT.encode("utf-32"), "line 1: the file is in UTF-32"),
        (TEXT.encode("latin-1"), "line 3: the byte 0xf6 is not UTF-8"),
        (b"model:\n\tcompile: auto\n", "line 2: a tab"),
        (b"\tmodel:\n", "line 1: a tab"),
        (b"model:\n  \tcompile: auto\n", "line 2: a tab"),
        (b"model:\n  a: [1,\n", "line 2: this is not YAML"),
        (b"model: {\n", "line 1: this is not YAML"),
        (b"a: 1\nb: \x07\n", "line 2: YAML does not take the character #x0007"),
        (b"", "line 1: the file is empty"),
        (b"# nothing\n\n", "line 1: the file is empty"),
        (b"\nhello\n", "line 2: this is no mapping"),
        (b"- a\n- b\n", "line 1: this is no mapping"),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["--config {}", "--config={}", "-c {}", "--model {}"])
def test_a_file_without_a_configuration_is_named_with_its_line(
    tmp_path: Path, content: bytes, words: str, form: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(DpinnError, match=rf"mine\.yaml, {words}"):
        require_readable(["fit", *form.format(path).split(), "--trainer.max_steps", "3"])


@pytest.mark.parametrize("content", [TEXT.encode(), TEXT.encode("utf-8-sig"), b"a:\t1 # \t\n"])
def test_a_file_in_utf_8_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    require_readable(["--config", str(path), "--resume", "runs/a", "--config", "a: 1"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("compile: off", {"compile": "off"}),
        ("compile: on", {"compile": "on"}),
        ("shard: off", {"shard": "off"}),
        ("flag: off", {"flag": False}),
        ("flag: on", {"flag": True}),
        ("flag: yes", {"flag": True}),
        ("flag: no", {"flag": False}),
        ("flag: False", {"flag": False}),
        ("name: no", {"name": "no"}),
        ("name: 1:30", {"name": "1:30"}),
        ("rate: 1e-3", {"rate": 1e-3}),
        ("rate: 3", {"rate": 3.0}),
        ("rate: -.5", {"rate": -0.5}),
        ("rate: .inf", {"rate": float("inf")}),
        ("rate: null", {"rate": None}),
        ("rate: ~", {"rate": None}),
        ("count: 1_000", {"count": 1000}),
        ("values: {a: off, b: [1, 2.5, true]}", {"values": {"a": "off", "b": [1, 2.5, True]}}),
    ],
)
@pytest.mark.parametrize("place", ["file", "command line"])
def test_words_are_read_as_they_are_written(
    tmp_path: Path, text: str, expected: dict[str, Any], place: str
) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--compile", type=CompileMode)
    parser.add_argument("--shard", type=Shard)
    parser.add_argument("--flag", type=bool)
    parser.add_argument("--name", type=str)
    parser.add_argument("--rate", type=float | None, default=7.0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--values", type=dict[str, Any])
    if place == "file":
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        found = parser.parse_args(["--config", str(path)])
    else:
        key, _, value = text.partition(":")
        found = parser.parse_args([f"--{key}", value.strip()])
    assert {key: found[key] for key in expected} == expected
