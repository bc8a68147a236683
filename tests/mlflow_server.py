"""A real ``mlflow server`` that can be killed, held and started again."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MLflowServer:
    """Serves the store in a folder, ``mlflow.db`` unless the options say otherwise.

    Args:
        folder: in which it works.
        options: of ``mlflow server``.
        environment: on top of this process's own, whose variables of MLflow are left out.
        scheme: of its address.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
        scheme: str = "http",
    ):
        self.folder = folder
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._options = options
        own = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        few = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._environment = own | few | dict(environment or {})
        self.log = folder / f"mlflow-server-{self.port}.log"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--workers", "1", *self._options],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float = 240) -> None:
        """Return once it has answered a question about its store: the first takes it seconds."""
        question = f"{self.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
        deadline = time.monotonic() + seconds
        anybody = ssl._create_unverified_context()
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(question, timeout=60, context=anybody).close()
                return
            except urllib.error.HTTPError:  # a login is wanted
                return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"the MLflow server did not start: {self.log.read_text()[-2000:]}")

    def send(self, sign: signal.Signals) -> None:
        """To it and its workers: SIGSTOP lets it hang, SIGCONT lets it go on."""
        os.killpg(self.process.pid, sign)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        self.process.wait()
