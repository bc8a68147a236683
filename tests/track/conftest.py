"""A real MLflow server, and a line to it that can be cut."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpinn.track import MLflowRun, solution_figure
from dpinn.track.store import connect

from ..mlflow_server import MLflowServer, free_port

MLFLOW_LIMITS = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder, and so a store, of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in MLFLOW_LIMITS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, to be copied."""
    database = tmp_path_factory.mktemp("made") / "mlflow.db"
    connect(f"sqlite:///{database}")
    return database


class Server(MLflowServer):
    """Serves a folder where a run was logged without any server."""

    run_id: str


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    import numpy as np

    folder = tmp_path_factory.mktemp("served")
    back = Path.cwd()
    os.chdir(folder)
    try:
        run = MLflowRun.start("burgers", "embedded")
        run.log_metrics({"loss/pde": 0.5}, 10)
        grid = np.linspace(0, 1, 8)
        figure = solution_figure("u", {"t": grid, "x": grid}, np.outer(grid, grid))
        run.log_figure(figure, "figures/u.png")
        run.finish()
    finally:
        os.chdir(back)
    server = Server(folder)
    server.run_id = run.run_id
    try:
        server.wait()
        yield server
    finally:
        server.stop()


class Line:
    """A TCP line to a server that can be cut, or lose the answers on their way back."""

    def __init__(self, port: int):
        self.upstream = port
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lose_answers = False
        self.answers_lost = 0
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.upstream))
                self._open += [client, server]
                for source, sink, back in ((client, server, False), (server, client, True)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, back), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if back and self.lose_answers:
                    self.answers_lost += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    line = Line(server.port)
    yield line
    line.cut()
