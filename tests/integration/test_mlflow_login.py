"""A server behind a login and TLS: MLflow's own variables are enough, and no secret is left."""

import contextlib
import json
import re
import sqlite3
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from ssl import create_default_context
from typing import Any

import pytest

from ..mlflow_server import MLflowServer

pytestmark = pytest.mark.slow

USER = "alice"
PASSWORD = "Xq7-horse-battery-9zK"
ADMIN_PASSWORD = "Adm1n-horse-battery-0pL"
WRONG = "Wr0ng-horse-battery-5tM"
SECRETS = [
    form
    for secret in (PASSWORD, WRONG)
    for form in (secret, b64encode(f"{USER}:{secret}".encode()).decode())
]


@dataclass
class Guarded:
    """A server that wants a login, with a certificate of an authority that nobody knows."""

    server: MLflowServer
    authority: Path

    def environment(self, password: str = PASSWORD, **more: str) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.server.url,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.authority),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # it hashes the password at every request
        } | more

    def ask(self, method: str, path: str, **content: str) -> None:
        """As the administrator."""
        login = b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"{self.server.url}/api/2.0/mlflow/users/{path}",
            json.dumps(content).encode(),
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            method=method,
        )
        context = create_default_context(cafile=str(self.authority))
        urllib.request.urlopen(request, context=context, timeout=60).close()


def openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority's certificate, and the server's key and certificate, signed by it."""
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    key, wish, certificate = folder / "server.key", folder / "server.csr", folder / "server.pem"
    names = folder / "names.cnf"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    fresh = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl("req", "-x509", *fresh, authority_key, "-out", authority, "-subj", "/CN=Test authority")
    openssl("req", *fresh, key, "-out", wish, "-subj", "/CN=127.0.0.1")
    signed_by = ("-CA", authority, "-CAkey", authority_key, "-CAcreateserial")
    openssl("x509", "-req", "-in", wish, *signed_by, "-extfile", names, "-out", certificate)
    return authority, key, certificate


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority, key, certificate = certificates(folder)
    server = MLflowServer(
        folder,
        "--app-name",
        "basic-auth",
        "--uvicorn-opts",
        f"--ssl-keyfile {key} --ssl-certfile {certificate}",
        environment={
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the forms on its pages",
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        },
        scheme="https",
    )
    try:
        server.wait()
        found = Guarded(server, authority)
        found.ask("POST", "create", username=USER, password=PASSWORD)
        yield found
    finally:
        server.stop()


def statuses(guarded: Guarded, run: Path) -> list[str]:
    with sqlite3.connect(guarded.server.folder / "mlflow.db") as database:
        query = "SELECT status FROM runs WHERE name = ?"
        return [status for (status,) in database.execute(query, [run.name])]


def assert_no_secret(*places: Path | str) -> None:
    """In no file below a folder, and in no text."""
    for place in places:
        files = [f for f in place.rglob("*") if f.is_file()] if isinstance(place, Path) else []
        contents = [f.read_bytes() for f in files]
        contents += [place.encode()] if isinstance(place, str) else []
        for content in contents:
            assert not any(secret.encode() in content for secret in SECRETS)


def test_a_login_and_a_certificate_of_ones_own_are_enough(guarded: Guarded, work: Any) -> None:
    config = work.config({"tracking.mlflow": True})
    outcome = work("fit", "--config", config, **guarded.environment())
    assert outcome.returncode == 0, outcome.stderr
    assert statuses(guarded, work.run_folder()) == ["FINISHED"]
    run_id = (work.run_folder() / "mlflow_run_id").read_text().strip()
    (checkpoint,) = guarded.server.folder.glob(f"mlartifacts/*/{run_id}/**/last.ckpt")
    assert checkpoint.read_bytes() == (work.run_folder() / "checkpoints/last.ckpt").read_bytes()
    assert_no_secret(work.folder, guarded.server.folder, outcome.stdout, outcome.stderr)


def test_a_login_in_the_uri_is_shown_nowhere(guarded: Guarded, work: Any) -> None:
    uri = guarded.server.url.replace("://", f"://{USER}:{PASSWORD}@")
    environment = guarded.environment(MLFLOW_TRACKING_URI=uri) | {
        "MLFLOW_TRACKING_USERNAME": "",
        "MLFLOW_TRACKING_PASSWORD": "",
    }
    config = work.config({"tracking.mlflow": True})
    outcome = work("fit", "--config", config, **environment)
    assert outcome.returncode == 0, outcome.stderr
    assert f"MLflow      {guarded.server.url}/#/experiments/" in outcome.stdout
    assert statuses(guarded, work.run_folder()) == ["FINISHED"]
    # Where nobody answers, what MLflow says itself holds the address with the login.
    environment["MLFLOW_TRACKING_URI"] = uri.rpartition(":")[0] + ":9"
    failed = work("fit", "--config", config, **environment)
    assert "https://127.0.0.1:9 does not answer" in failed.stderr
    said = [o.stdout + o.stderr for o in (outcome, failed)]
    assert_no_secret(work.folder, guarded.server.folder, *said)


WRONGS = {
    "password": (
        {"MLFLOW_TRACKING_PASSWORD": WRONG},
        "it refuses the login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN",
    ),
    "no login": ({"MLFLOW_TRACKING_USERNAME": ""}, "it refuses the login: set "),
    "unknown authority": (
        {"MLFLOW_TRACKING_SERVER_CERT_PATH": ""},  # MLflow would then trust everybody
        "its TLS certificate is not trusted (unable to get local issuer certificate): set "
        "MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate, PEM, of the authority that signed it",
    ),
    "no such certificate": (
        {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere.pem"},
        "there is no file /nowhere.pem: set MLFLOW_TRACKING_SERVER_CERT_PATH to ",
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_is_wrong_with_a_login_or_certificate_is_told_at_the_start(
    wrong: str, guarded: Guarded, work: Any
) -> None:
    changes, sentence = WRONGS[wrong]
    config = work.config({"tracking.mlflow": True})
    outcome = work("fit", "--config", config, **guarded.environment(**changes))
    assert outcome.returncode == 1
    told = [line for line in outcome.stderr.splitlines() if line.startswith("dpinn: ")]
    assert len(told) == 1
    assert f"the MLflow store {guarded.server.url} takes nothing: {sentence}" in told[0]
    assert work.left <= {"runs"}
    assert_no_secret(work.folder, outcome.stdout, outcome.stderr)


def test_a_login_that_ends_in_mid_run_does_not_end_the_training(
    guarded: Guarded, work: Any, wait_until: Any
) -> None:
    work.file(
        "gated.py",
        "import time\n"
        "from pathlib import Path\n"
        "from dpinn.loss import FixedWeights\n"
        "class Gated(FixedWeights):\n"
        "    def due(self, step):\n"
        "        while step >= 10 and not Path('open').exists():\n"
        "            time.sleep(0.01)\n"
        "        return super().due(step)\n",
    )
    config = work.config({"tracking.mlflow": True, "model.weights": "gated.Gated"})
    running = work.start("fit", "--config", config, **guarded.environment())
    wait_until(lambda: any(work.folder.glob("runs/*/checkpoints/last.ckpt")), "a checkpoint")
    guarded.ask("PATCH", "update-password", username=USER, password=WRONG)
    try:
        work.file("open", "")
        outcome = running.wait()
        assert outcome.returncode == 0, outcome.stderr
        assert "nothing reaches the MLflow store" in outcome.stderr
        lost = (
            r"did not reach \S+ .it refuses the login: set MLFLOW_TRACKING_USERNAME and .*--resume"
        )
        assert re.search(lost, outcome.stderr)
        assert statuses(guarded, work.run_folder()) == ["RUNNING"]
        again = work("fit", "--resume", **guarded.environment(WRONG))
    finally:
        guarded.ask("PATCH", "update-password", username=USER, password=PASSWORD)
    assert again.returncode == 0, again.stderr
    assert statuses(guarded, work.run_folder()) == ["FINISHED"]
    with contextlib.closing(sqlite3.connect(guarded.server.folder / "mlflow.db")) as database:
        query = "SELECT step FROM metrics JOIN runs USING (run_uuid) WHERE key = ? AND name = ?"
        found = database.execute(query, ["loss/total", work.run_folder().name]).fetchall()
    assert sorted(step for (step,) in found) == [5, 10, 15, 20]
    said = [o.stdout + o.stderr for o in (outcome, again)]
    assert_no_secret(work.folder, guarded.server.folder, *said)
