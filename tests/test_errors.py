import pytest

from dpinn.errors import first_line, shown_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://host:5000/x"),
        ("postgresql://me:se/cret@host/db", "postgresql://host/db"),
        ("postgresql://me:s@cret?@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("mssql+pyodbc:///?odbc_connect=UID=me;PWD=secret", "mssql+pyodbc:///"),
        ("sqlite:////data/me@home/mlflow.db", "sqlite:////data/me@home/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_a_uri_is_shown_without_a_login(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unsupported URI 'httpx://me:se@cret@host' here", "unsupported URI 'httpx://host' here"),
        ("a http://me:secret@b/c and d://e:secret@f", "a http://b/c and d://f"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?user=me&password=...&x=1"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_credentials_in_a_text_are_not_shown(text: str, shown: str) -> None:
    assert first_line(ValueError(text)) == shown


def test_an_error_is_quoted_by_its_first_line() -> None:
    assert first_line(ValueError("a://me:secret@b failed\nat c")) == "a://b failed"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 500))) == 200
