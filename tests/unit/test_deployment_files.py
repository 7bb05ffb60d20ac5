"""What cannot be run here for want of images is at least read: compose files, Dockerfiles, units, settings, constraints."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from yamllint import linter  # type: ignore[import-untyped]
from yamllint.config import YamlLintConfig  # type: ignore[import-untyped]

from deployments.services import minio
from federation.settings import CentreSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
COMPOSE = sorted((DEPLOYMENTS / "compose").glob("*.yaml"))
DOCKERFILES = sorted((DEPLOYMENTS / "images").glob("*.Dockerfile"))
UNITS = sorted((DEPLOYMENTS / "systemd").glob("*.service"))

#: Of the compose specification, what our files may use: anything else is a slip or wants a look here.
SERVICE_KEYS = {
    *("image", "build", "hostname", "restart", "logging", "environment", "env_file", "ulimits", "ports", "volumes", "healthcheck"),
    *("command", "entrypoint", "depends_on", "user", "group_add", "stop_grace_period", "read_only", "tmpfs", "security_opt", "cap_drop"),
    "x-no-healthcheck",
}
#: What each service opens to the world; everything else stays inside.
PUBLISHED = {"rabbitmq": ["5671:5671"], "store": ["9000:9000"], "prefect": ["127.0.0.1:4200:4200"]}
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
PINNED = re.compile(r"^[a-z0-9-]+:(?!latest)[\w.-]*\d[\w.-]*$")


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def compose(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def services() -> list[Any]:
    return [
        pytest.param(path, name, service, id=f"{path.stem}-{name}")
        for path in COMPOSE
        for name, service in compose(path)["services"].items()
    ]


def test_there_is_something_to_read() -> None:
    assert [path.name for path in COMPOSE] == ["centre.yaml", "site.yaml"]
    assert {path.name for path in DOCKERFILES} == {"centre.Dockerfile", "store.Dockerfile", "worker.Dockerfile"}
    assert {path.name for path in UNITS} == {"fdn-worker.service", "fem-relay.service", "prefect-server.service"}


@named(COMPOSE)
def test_compose_is_clean_yaml(path: Path) -> None:
    config = YamlLintConfig("{extends: default, rules: {line-length: {max: 160}, document-start: disable}}")
    assert [str(problem) for problem in linter.run(path.read_text(), config)] == []


@named(COMPOSE)
def test_compose_itself_reads_it(path: Path) -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the compose plug-in is not installed")
    values = {name: "/tmp/x" for name, _ in VARIABLE.findall(path.read_text())}
    argv = ["docker", "compose", "-f", str(path), "config", "--quiet"]
    done = subprocess.run(argv, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **values}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("path", "name", "service"), services())
def test_service(path: Path, name: str, service: dict[str, Any]) -> None:
    assert set(service) <= SERVICE_KEYS
    assert PINNED.match(service["image"]), "short name, with a version"
    assert service["restart"] in ("unless-stopped", "on-failure")
    assert ("healthcheck" in service) != ("x-no-healthcheck" in service), "probed, or a reason why not"
    assert service.get("ports", []) == PUBLISHED.get(name, [])
    if "build" in service:
        context = (path.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
    if "env_file" in service:
        assert (path.parent / service["env_file"]).is_file()
    for needed, condition in service.get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in compose(path)["services"][needed]
    for source, target in (
        (volume.split(":")[0], volume.split(":")[1]) for volume in service.get("volumes", []) if not volume.startswith("$")
    ):
        if source.startswith("./"):
            assert (path.parent / source).is_file()
        elif not source.startswith("/"):
            assert source in compose(path)["volumes"], f"{target} is on a volume that nobody declares"


@pytest.mark.parametrize(("path", "name", "service"), services())
def test_no_secret_stands_in_a_file(path: Path, name: str, service: dict[str, Any]) -> None:
    for key, value in service.get("environment", {}).items():
        if re.search("PASSWORD|SECRET|AUTH", key):
            assert VARIABLE.fullmatch(value), key
        for user_and_password in re.findall(r"://([^/@]*:[^/@]*)@", VARIABLE.sub("$", value)):
            assert user_and_password.endswith(":$"), key


@named(COMPOSE)
def test_every_variable_is_required_and_in_the_example(path: Path) -> None:
    used = VARIABLE.findall(path.read_text())
    assert {rest for _, rest in used} == {":?"}, "a variable left out must stop compose"
    example = (path.parent / f"{path.stem}.env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == {name for name, _ in used}


def test_the_centre_is_given_settings_that_it_has() -> None:
    given = {
        key for service in compose(COMPOSE[0])["services"].values() for key in service.get("environment", {}) if key.startswith("FEM_")
    }
    assert given
    assert given <= {f"FEM_{name.upper()}" for name in CentreSettings.model_fields}


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()]


@named(DOCKERFILES)
def test_dockerfile(path: Path) -> None:
    steps = instructions(path)
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD", "VOLUME"}
    assert {word for word, _ in steps} <= known, "ADD, ARG and the like want a look here first"
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert all(PINNED.match(base) for base in bases)
    last = steps[max(index for index, (word, _) in enumerate(steps) if word == "FROM") :]
    users = [rest for word, rest in last if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert isinstance(json.loads(dict(last)["ENTRYPOINT"]), list), "the program gets signals itself: no shell around it"
    for word, rest in steps:
        if word == "COPY" and "--from=" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest


def test_the_store_is_of_the_version_that_is_tested() -> None:
    assert f"{minio.MODULE}@{minio.VERSION}" in (DEPLOYMENTS / "images/store.Dockerfile").read_text()


def test_no_secret_gets_into_an_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".cache", "**/*.env", "**/*.key", "**/*.pem"} <= set(ignored)


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


@named(UNITS)
def test_unit(path: Path) -> None:
    service = unit(path)["Service"]
    # A drained worker ends well and stays away; the others are wanted for ever.
    assert service["Restart"] == ("on-failure" if path.stem == "fdn-worker" else "always")
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["User"] != "root"
    assert service["StateDirectory"]
    assert int(service["TimeoutStopSec"]) > 0
    program = Path(service["ExecStart"].split()[0])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert program.is_absolute()
    assert program.name in {*scripts, "prefect"}


def test_a_stopped_worker_leaves_its_tasks_running() -> None:
    assert unit(DEPLOYMENTS / "systemd/fdn-worker.service")["Service"]["KillMode"] == "process"


@named(UNITS)
def test_systemd_accepts_it(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # What it starts and reads is not installed here; every other directive is systemd's to judge.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
    copy = tmp_path / path.name
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_prefect_knows_each_of_its_settings() -> None:
    from prefect.settings import get_current_settings

    known = set(get_current_settings().to_environment_variables())
    lines = [line for line in (DEPLOYMENTS / "prefect/settings.env").read_text().splitlines() if line and not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    assert set(values) - {"DO_NOT_TRACK"} <= known
    for writer in ("TASK_RUN_RECORDER", "EVENT_PERSISTER"):
        assert int(values[f"PREFECT_SERVER_SERVICES_{writer}_BATCH_SIZE"]) > 1, "without batches each row is a transaction"
    assert importlib.util.find_spec(values["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])


def test_constraints_pin_every_dependency_by_version_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    for file in (ROOT / "pyproject.toml", ROOT / "fdn_worker/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        wanted = [*project["dependencies"], *(each for extra in project.get("optional-dependencies", {}).values() for each in extra)]
        names = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", each)[0]).lower() for each in wanted}
        assert names - pinned <= {"federated-execution-manager"}
