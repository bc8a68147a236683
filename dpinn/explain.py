"""What an error inside a user's method means, and the line at which it happened."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dpinn
from dpinn.errors import DpinnError, first_line
from dpinn.jet.derivative_names import derivative_names
from dpinn.jet.plan import LAPLACIAN

LIBRARIES = tuple(Path(str(m.__file__)).parent for m in (dpinn, np, torch, inspect))
"""Folders of code that is not the user's; the last is Python's own."""

EXPRESSION = (
    "{what} is a derivative of an expression, and only fields have derivatives; write it out by "
    "the product or chain rule, or declare the expression as a field with a term that defines it"
)

BY_NAME = (
    "torch.autograd knows nothing of the coordinates here; read derivatives of fields by name, as "
    "in u.x, and write those of expressions out by the product or chain rule"
)

NUMPY = (
    "numpy's functions and arrays know no gradients and no GPU; use those of torch, such as "
    "torch.sin(u), and torch.as_tensor(...) for arrays"
)

MEANINGS = (
    (
        r"Boolean value of Tensor",
        "a condition such as `if` or `and` decides once for all points; choose point by point with "
        "torch.where(x < 0.3, 10.0, 1.0)",
    ),
    (
        r"cannot be converted to (Python )?[Ss]calar|only one element tensors can be converted"
        r"|must be real number, not (Field|RecordingField|Tensor)|float\(\) argument must be",
        "{function} takes a single number; use {instead}, which takes all points",
    ),
    (
        r"[Cc]an't call numpy\(\) on Tensor that requires grad|__array_ufunc__"
        r"|'(numpy\.)?ndarray' and 'Tensor'|'Tensor' and '(numpy\.)?ndarray'"
        r"|can't convert \S+ device type tensor to numpy|must be Tensor, not (numpy\.)?ndarray",
        NUMPY,
    ),
    (
        r"differentiated Tensors|does not require grad and does not have a grad_fn",
        BY_NAME,
    ),
    (
        r"same dtype|expected scalar type|Expected object of scalar type",
        "tensors of different precision meet; make those that are not attributes of the problem "
        "with dtype=x.dtype ({message})",
    ),
    (
        r"same device|Expected all tensors",
        "tensors on different devices meet; make those that are not attributes of the problem "
        "with device=x.device ({message})",
    ),
    (r"'builtin_function_or_method' and|'method' and", EXPRESSION),
)
"""What torch, numpy and Python say, and what to do about it."""


@contextmanager
def explained(title: str, method: Callable[..., Any], coordinates: Sequence[str]) -> Iterator[None]:
    """Turn whatever a method of the user's raises into one sentence.

    Args:
        title: of the method, ``Burgers.residual``.
        method: the one that is called within.
        coordinates: of the problem.

    Raises:
        DpinnError: what it means and what to write, with the user's line; of an error that is not
            known, its own words.
    """
    try:
        yield
    except DpinnError:
        raise
    except Exception as error:
        frame = _users_frame(error, method)
        where = (
            line_of(method)
            if frame is None
            else f"{Path(frame.filename).name}, line {frame.lineno}"
        )
        source = "" if frame is None else linecache.getline(frame.filename, frame.lineno or 0)
        raise DpinnError(f"{title}: {meaning(error, source, coordinates)} ({where})") from error


def line_of(method: Callable[..., Any]) -> str:
    """Return where a method begins, ``my_pde.py, line 12``."""
    code = inspect.unwrap(method).__code__
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}"


def meaning(error: Exception, source: str, coordinates: Sequence[str]) -> str:
    """Return what an error means and what to write instead; else its own words.

    Args:
        error: raised in a method of a problem.
        source: the line at which it was.
        coordinates: of the problem.
    """
    message = first_line(error)
    name = getattr(error, "name", None)  # of an AttributeError
    named = name == LAPLACIAN or derivative_names(name or "", coordinates)
    if named and "'Tensor' object" in message:
        return EXPRESSION.format(what=f".{name}")
    for pattern, sentence in MEANINGS:
        if re.search(pattern, message):
            called = re.search(r"\bmath\.(\w+)\s*\(", source)
            method = re.search(r"\.(t|T)\b", source)
            return sentence.format(
                message=message,
                function=f"math.{called[1]}" if called else "a function of plain Python",
                instead=f"torch.{called[1]}" if called else "that of torch, such as torch.sin",
                what=f".{method[1]}" if method else "what is read with a dot",
            )
    if isinstance(error, TypeError) and re.search(r"\b(np|numpy)\.\w+\(", source):
        return NUMPY  # it has called a method of torch in its own way
    if isinstance(error, AttributeError | ValueError):
        return message
    return f"{type(error).__name__}: {message}" if str(error) else type(error).__name__


def _users_frame(error: Exception, method: Callable[..., Any]) -> traceback.FrameSummary | None:
    """The innermost frame of the user's own code, if the error passed through any."""
    own = inspect.unwrap(method).__code__.co_filename
    frames = traceback.extract_tb(error.__traceback__)
    return next((f for f in reversed(frames) if f.filename == own or _is_users(f.filename)), None)


def _is_users(file: str) -> bool:
    path = Path(file)
    *packages, standard = LIBRARIES
    ours = any(package in path.parents for package in packages)
    return not (file.startswith("<frozen") or ours or path.parent == standard)
