"""What it means when a store fails, in words that hold no password."""

from __future__ import annotations

import errno
import re

from dpinn.errors import DpinnError, first_line

REFUSALS = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_LIMIT_EXCEEDED",
    }
)
"""Answers that the same request will get again, so that repeating it is useless."""

DENIALS = {"CUSTOMER_UNAUTHORIZED": 401, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}

PASSING = frozenset({401, 403, 404, 408, 425, 429})
"""Answers of HTTP that another login, a proxy or a quieter hour will change."""

LOGIN = (
    "it refuses the login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN"
)
PERMISSION = "its permissions do not allow this to the user of MLFLOW_TRACKING_USERNAME"
CERTIFICATE = (
    "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate, PEM, of the authority that signed it"
)

SIGNS = (
    ("timed out", "timed out"),
    ("NameResolutionError", "unknown host"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS: its address begins with http://"),
    ("refused", "connection refused"),
    ("database is locked", "database is locked"),
)


class StoreAwayError(DpinnError):
    """Nothing answers at the address of the store."""


def is_refusal(error: BaseException) -> bool:
    """Tell an answer that concerns this request alone and will not change from an outage."""
    if isinstance(error, StoreAwayError):
        return False
    if getattr(error, "error_code", None) in REFUSALS:
        return True
    if isinstance(error, DpinnError | FileNotFoundError | PermissionError):
        return True
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return True
    status = _http_status(error)
    return status is not None and 400 <= status < 500 and status not in PASSING


def is_lasting(error: BaseException) -> bool:
    """Whether waiting for the store is useless: it is there, but not for this user."""
    return _denial(error) is not None or _distrust(str(error)) is not None


def reason(error: BaseException) -> str:
    """Say in a few words why a request failed."""
    if isinstance(error, StoreAwayError) and error.__cause__ is not None:
        error = error.__cause__
    denial, text = _denial(error), str(error)
    if denial is not None:
        return LOGIN if denial == 401 else PERMISSION
    distrust = _distrust(text)
    if distrust is not None:
        return distrust
    for sign, words in SIGNS:
        if sign in text:
            return words
    return first_line(error)


def _denial(error: BaseException) -> int | None:
    status = DENIALS.get(getattr(error, "error_code", ""), _http_status(error))
    return status if status in (401, 403) else None


def _distrust(text: str) -> str | None:
    """What is wrong with the server's certificate, or with the one to compare it with."""
    found = re.search(r"certificate verify failed(?:: ([^(\n]+?))? ?\(", text)
    if found:
        why = (found[1] or "no details").rstrip(".")
        return f"its TLS certificate is not trusted ({why}): {CERTIFICATE}"
    missing = re.search(r"TLS CA certificate bundle, invalid path: (\S+)", text)
    return missing and f"there is no file {missing[1]}: {CERTIFICATE}"


def _http_status(error: BaseException) -> int | None:
    """The code of an answer that the HTTP library itself reports, as it does for artifacts."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
