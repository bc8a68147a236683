import errno

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    UNAUTHENTICATED,
)
from requests import HTTPError, Response

from dpinn.track.failures import first_line, is_lasting, is_refusal, reason, shown_uri


def http_error(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(f"{status} Client Error", response=response)


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


def test_a_reason_holds_no_login_and_not_the_address_of_a_request() -> None:
    error = MlflowException(
        "API request to https://me:se/cret@host/api/2.0/x failed with exception "
        "no route to https://me:se/cret@host\nand more"
    )
    assert first_line(error) == "no route to https://host"
    assert reason(error) == "no route to https://host"


REFUSED = {
    "unknown run": MlflowException("no", error_code=RESOURCE_DOES_NOT_EXIST),
    "a body beyond what a proxy lets pass": http_error(413),
    "a folder of another user": PermissionError("no"),
    "a read-only file system": OSError(errno.EROFS, "no"),
}
PASSING = {
    "error of the server": MlflowException("no", error_code=INTERNAL_ERROR),
    "wrong login": MlflowException("no", error_code=UNAUTHENTICATED),
    "no permission": http_error(403),
    "a proxy without its server": http_error(404),
    "too many requests": http_error(429),
    "connection lost": ConnectionResetError("no"),
    "disk full": OSError(errno.ENOSPC, "no"),
}


@pytest.mark.parametrize("name", [*REFUSED, *PASSING])
def test_only_what_the_request_itself_is_to_blame_for_is_given_up(name: str) -> None:
    assert is_refusal((REFUSED | PASSING)[name]) == (name in REFUSED)


def test_a_login_that_is_refused_does_not_pass_by_waiting() -> None:
    for error in (PASSING["wrong login"], http_error(401)):
        assert is_lasting(error)
        assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in reason(error)
    forbidden = MlflowException("no", error_code=PERMISSION_DENIED)
    assert is_lasting(forbidden)
    assert "permissions" in reason(forbidden)
    assert not is_lasting(PASSING["connection lost"])
