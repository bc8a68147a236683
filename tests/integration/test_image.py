"""The images of ``docker/``: what is written there, and the one for CPUs, built and used."""

import configparser
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from .slurm import LOCK

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "mlflow.Dockerfile")
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|_KEY", re.IGNORECASE)


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, each with what follows it on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DOCKER / name).read_text()).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def of_kind(name: str, kind: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == kind]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_base_is_an_argument_with_a_pinned_release(name: str) -> None:
    first, second, *_ = instructions(name)
    assert first[0] == "ARG"
    base = re.fullmatch(r"BASE=\S+:(?P<tag>\S+)", first[1])
    assert base is not None
    assert base["tag"] != "latest"
    assert second == ("FROM", "${BASE}")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_commands_run_as_a_user_without_rights_whose_number_is_known(name: str) -> None:
    """A number: Kubernetes does not start a name where it must not be root."""
    (user,) = of_kind(name, "USER")
    assert int(user) > 0
    assert instructions(name).index(("USER", user)) > max(
        k for k, (word, _) in enumerate(instructions(name)) if word in ("RUN", "COPY")
    )


@pytest.mark.parametrize("name", DOCKERFILES)
def test_all_that_is_installed_is_constrained_and_no_cache_stays(name: str) -> None:
    installs = [
        shlex.split(command)
        for run in of_kind(name, "RUN")
        for command in run.split("&&")
        if "pip install" in command
    ]
    assert installs
    for words in installs:
        assert "--no-cache-dir" in words
        constrained = "-c" in words and words[words.index("-c") + 1].endswith("constraints.txt")
        assert constrained or {"--no-deps", "--no-index"} <= set(words)
    for run in of_kind(name, "RUN"):
        assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists/*" in run


def test_a_change_of_the_source_installs_no_dependency_again() -> None:
    steps = instructions("Dockerfile")
    dependencies = next(k for k, (_, rest) in enumerate(steps) if "-c constraints.txt" in rest)
    copied = [word for w, rest in steps[:dependencies] if w == "COPY" for word in rest.split()[:-1]]
    assert copied == ["pyproject.toml", "constraints.txt"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_is_not_ignored(name: str) -> None:
    ignored, *allowed = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith(("#", "**/"))
    ]
    assert ignored == "*"
    sources = [source for copy in of_kind(name, "COPY") for source in copy.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_holds_no_secret(name: str) -> None:
    for word, rest in instructions(name):
        if word in ("ARG", "ENV"):
            assert not SECRET.search(rest), rest


def test_passwords_come_from_outside_and_nothing_starts_without(services: dict[str, Any]) -> None:
    given = {
        f"{service}.{key}": value
        for service, content in services.items()
        for key, value in content.get("environment", {}).items()
        if SECRET.search(key)
    }
    assert set(given) == {"database.POSTGRES_PASSWORD", "mlflow.PGPASSWORD"}
    for value in given.values():
        assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", value)
    ignored = ["git", "check-ignore", "--quiet", "--no-index", "docker/.env"]
    assert subprocess.run(ignored, cwd=ROOT).returncode == 0


def test_servers_are_watched_restarted_and_waited_for(services: dict[str, Any]) -> None:
    for name in ("database", "mlflow"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
        assert services[name]["restart"] == "unless-stopped"
    for name, other in (("mlflow", "database"), ("train", "mlflow")):
        assert services[name]["depends_on"] == {other: {"condition": "service_healthy"}}


def test_services_are_built_from_files_and_keep_their_data_in_volumes(
    services: dict[str, Any],
) -> None:
    volumes = yaml.safe_load((DOCKER / "compose.yaml").read_text())["volumes"]
    mounted = [volume.split(":") for s in services.values() for volume in s.get("volumes", ())]
    assert {name for name, _ in mounted} == set(volumes)
    for name, content in services.items():
        if "build" in content:
            assert (DOCKER / content["build"]["context"]).resolve() == ROOT
            assert (ROOT / content["build"]["dockerfile"]).is_file()
        else:
            assert re.fullmatch(r"\w+:\d[\w.-]*", content["image"]), name


def test_the_tracking_server_is_reached_from_this_machine_alone_unless_told(
    services: dict[str, Any],
) -> None:
    assert services["mlflow"]["ports"] == ["${MLFLOW_ADDRESS:-127.0.0.1:5000}:5000"]
    assert all("ports" not in services[name] for name in ("database", "train"))


def test_the_training_takes_the_gpus_only_when_it_is_asked_for(services: dict[str, Any]) -> None:
    train = services["train"]
    assert train["profiles"] == ["train"]
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert train["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert (ROOT / train["command"][train["command"].index("--config") + 1]).is_file()


def test_a_build_gets_pips_configuration_with_what_it_names_on_disk(tmp_path: Path) -> None:
    index = tmp_path / "index" / "simple"
    certificate = tmp_path / "certificates" / "own.pem"
    for path in (index, certificate):
        path.mkdir(parents=True)
    told = tmp_path / "pip.conf"
    told.write_text(
        "[global]\ntimeout = 5\nindex-url = https://example.org/simple\n"
        f"extra-index-url = file://{index}\n  https://example.org/more\n"
        "[install]\nno-compile = true\n"
    )
    done = subprocess.run(
        [sys.executable, DOCKER / "pip_configuration.py", tmp_path / "given.conf"],
        env=os.environ
        | {"PIP_CONFIG_FILE": str(told), "PIP_TIMEOUT": "7", "PIP_CERT": str(certificate)},
        capture_output=True,
        text=True,
        check=True,
    )
    secret, *mounts = done.stdout.splitlines()
    assert secret == f"--secret=id=pip.conf,src={tmp_path / 'given.conf'}"
    there = {
        folder: there
        for folder, there, mode in (m.removeprefix("--volume=").split(":") for m in mounts)
        if mode == "ro"
    }
    given = configparser.RawConfigParser()
    given.read(tmp_path / "given.conf")
    assert given["global"]["timeout"] == "7"
    assert given["global"]["index-url"] == "https://example.org/simple"
    assert given["global"]["extra-index-url"].split() == [
        f"file://{there[str(index.parent)]}/simple",
        "https://example.org/more",
    ]
    assert given["global"]["cert"] == f"{there[str(certificate.parent)]}/own.pem"
    assert given["install"]["no-compile"] == "true"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build_cpu.sh"], "build_cpu.sh: give one folder to build in"),
        (["build_cpu.sh", str(DOCKER)], "is not an empty folder"),
        (["run_cpu.sh", "/nowhere"], "run_cpu.sh: give a folder and a command"),
        (["run_cpu.sh", "/nowhere", "true"], "there is no image in /nowhere"),
    ],
)
def test_wrong_usage_of_the_scripts_is_one_sentence(arguments: list[str], sentence: str) -> None:
    script, *rest = arguments
    done = subprocess.run([DOCKER / script, *rest], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert sentence in line


@pytest.mark.slow
def test_the_tracking_server_starts_as_compose_says_and_answers_to_its_names_only(
    services: dict[str, Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """Its database apart, which is a file here."""
    server = services["mlflow"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def here(words: list[str]) -> list[str]:
        changed = (word.replace("5000", port).replace("0.0.0.0", "127.0.0.1") for word in words)
        return [word.replace("/artifacts", str(tmp_path / "artifacts")) for word in changed]

    given = server["environment"]
    hosts = given["MLFLOW_SERVER_ALLOWED_HOSTS"]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "MLFLOW_SERVER_ALLOWED_HOSTS": hosts.replace(
            "${MLFLOW_HOSTS:-localhost}", "tracking.example:5000"
        ),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"],
    }
    process = subprocess.Popen(
        here(server["command"]),
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        check = here(server["healthcheck"]["test"][1:])

        def healthy() -> bool:
            return subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0

        def answer(host: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            url = "/api/2.0/mlflow/experiments/search?max_results=1"
            connection.request("GET", url, headers={"Host": host})
            return connection.getresponse().status

        wait_until(healthy, "the server", 600)
        asked_by_the_training = services["train"]["environment"]["MLFLOW_TRACKING_URI"]
        assert answer(urlsplit(asked_by_the_training).netloc) == 200
        assert answer("tracking.example:5000") == 200
        assert answer("elsewhere.example:5000") == 403
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the image for CPUs lies."""
    if os.geteuid() != 0:
        pytest.skip("building an image without a daemon needs root")
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing and os.environ.get("CI"):
        subprocess.run(["apt-get", "update"], check=True)
        install = ["apt-get", "install", "-y", "--no-install-recommends", *LOCK, *missing]
        subprocess.run(install, check=True)
    elif missing:
        pytest.skip(f"there is no {' and no '.join(missing)}; apt-get install {' '.join(missing)}")
    folder = tmp_path_factory.mktemp("image")
    # Compiling two gigabytes for a single training takes longer than it saves.
    quick = os.environ | {"PIP_NO_COMPILE": "true"}
    with (folder.parent / "build.log").open("w") as log:
        built = subprocess.run([DOCKER / "build_cpu.sh", folder], env=quick, stdout=log, stderr=log)
    try:
        assert built.returncode == 0, Path(log.name).read_text()[-4000:]
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # two gigabytes are fetched, unpacked and stored
def test_any_user_trains_in_the_image_and_writes_nothing_into_it(image: Path) -> None:
    """As under Apptainer: the caller's number, home and current folder; the rest is read-only."""
    script = """
        touch /tmp/before
        dpinn fit --config /opt/dpinn/configs/quick/burgers.yaml --trainer.max_steps 20 \
            --model.compile off --tracking.output runs || exit
        test -w /opt/dpinn/runs || exit
        echo "written: $(find / -xdev -newer /tmp/before -type f -not -path '/tmp/*')"
        echo "user: $(id -u), in the image: $(getent passwd "$(id -u)" || echo unknown)"
        echo '#include <Python.h>' > /tmp/extension.cpp
        c++ -c $(python3-config --includes) /tmp/extension.cpp -o /tmp/extension.o || exit
    """
    environment = ["env", "HOME=/work", "OMP_NUM_THREADS=1"]
    done = subprocess.run(
        [DOCKER / "run_cpu.sh", image, *environment, "sh", "-c", script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "written: \n" in done.stdout
    assert "user: 4242, in the image: unknown\n" in done.stdout
    (run,) = (image / "work" / "runs").iterdir()
    assert json.loads((run / "evaluation.json").read_text())["finished"] is True
    assert run.stat().st_uid == 4242
    assert (image / "work" / "mlflow.db").is_file()
