"""Starts ``dpinn`` processes in a tenth of a second each: the libraries are imported only once.

Run as a script. A line of JSON on standard input starts a process, or waits for one; the answer is
a line of JSON; an empty line ends the server. A process is forked, before any thread exists, and
from there on is what ``dpinn`` with these arguments is: own standard output and error, folder,
environment and exit code. A ``&&`` among the arguments begins another command, in the same process,
where the one before went well.
Modules named in PRELOAD are imported beforehand.
"""

import atexit
import gc
import importlib
import json
import os
import sys
import threading
from typing import Any

import lightning.pytorch.cli  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import mlflow.store.tracking.sqlalchemy_store
import mlflow.tracking  # noqa: F401

import dpinn.report
import dpinn.train.cli  # noqa: F401
from dpinn.cli import main


def become(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for descriptor, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        mode = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(name, mode)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["dpinn", *request["arguments"]]


def serve() -> None:
    """Answer requests; return in a process that has just been started."""
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    # Not the end of the pipe, which a process that pytest has forked may hold open.
    while line := requests.readline().strip():
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"returncode": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                become(request)
                return
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def leave(code: int) -> None:
    """Exit as Python does, but for freeing every module, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for module in os.environ.get("PRELOAD", "").split():
        importlib.import_module(module)
    gc.freeze()
    serve()
    try:
        program, *arguments = sys.argv
        while arguments:
            end = arguments.index("&&") if "&&" in arguments else len(arguments)
            sys.argv = [program, *arguments[:end]]
            arguments = arguments[end + 1 :]
            main()
    except SystemExit as error:
        leave(error.code if isinstance(error.code, int) else error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        leave(1)
    leave(0)
