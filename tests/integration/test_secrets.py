"""A site's secret reaches its task as a file from memory, and stands in nothing else: inspect, events, records, journal, logs, store."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import State
from federation.centre import Submission
from federation.local import LocalFederation
from tests.conftest import Services
from tests.support.rig import Rig, eventually, name_of, rig
from tests.support.services import real_rig

SECRET = f"sesame-{secrets.token_hex(16)}"
FORMS = (SECRET.encode(), SECRET.encode().hex().encode())
#: What shows that the task had it, without saying it.
USED = hashlib.sha256(SECRET.encode()).hexdigest()
USE = 'cat "$SECRETS_PATH/token" | sha256sum > used; echo begun; until [ -e go ]; do sleep 0.05; done'


@pytest.fixture(scope="module", params=["process", "docker"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home, own = tmp_path_factory.mktemp("centre"), tmp_path_factory.mktemp("site")
    (own / "token").write_text(SECRET)
    (own / "token").chmod(0o600)
    name = f"s{time.time_ns():x}"
    options = {"secrets": {"token": str(own / "token"), "gone": str(own / "gone")}, "grace": 0.5}
    if request.param == "process":
        federation = rig(LocalFederation(home, (name,), options=options))
    else:
        federation = real_rig(request.getfixturevalue("services"), home, (name,), name, options=options)
    with federation as made:
        made.start(name)
        yield made
    shutil.rmtree(memory(name))


@pytest.fixture
def node(house: Rig) -> str:
    return house.federation.nodes[0]


@pytest.fixture
def image(house: Rig, services: Services) -> str:
    return services.images["busybox"]


def shell(house: Rig, script: str, image: str, *names: str, **fields: object) -> Submission:
    return house.send(house.federation.nodes[0], "/bin/sh", "-c", script, image=image, secrets=names, **fields)


def memory(node: str) -> Path:
    return Path(f"/dev/shm/fdn-worker-{node}")


def told(house: Rig) -> list[str]:
    """Where the secret stands, of all that the centre and the site's worker keep, and of what the store has."""
    files = [path for path in house.federation.home.rglob("*") if path.is_file()]
    found = [str(path) for path in files if any(form in path.read_bytes() for form in FORMS)]
    store = house.centre.store
    return found + [info.key for info in store.list("") if any(form in b"".join(store.get(info.key)) for form in FORMS)]


def test_it_is_there_for_as_long_as_the_task_runs(house: Rig, node: str, image: str) -> None:
    submission = shell(house, USE, image, "token", outputs=("used",))
    house.line(submission, "begun")
    folder = memory(node) / name_of(submission)
    assert [path.name for path in folder.iterdir()] == ["token"]
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o400
    assert stat.S_IMODE(memory(node).stat().st_mode) == 0o700
    # A worker that is killed and comes back leaves it there, and takes away what belongs to nobody.
    stale = memory(node) / "fdn-stale-1"
    stale.mkdir()
    house.kill(node)
    house.start(node)
    eventually("what is stale goes", lambda: not stale.exists())
    assert (folder / "token").read_text() == SECRET
    (house.folder(submission) / "sandbox/go").touch()
    result = house.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert house.output(result, "outputs/used").split()[0].decode() == USED
    eventually("it is out of memory", lambda: not folder.exists())
    assert told(house) == []
    house.check_clean(node)


@pytest.mark.parametrize("house", ["docker"], indirect=True)
def test_docker_does_not_show_it(house: Rig, node: str, image: str, services: Services) -> None:
    submission = shell(house, f"{USE}; env", image, "token")
    house.line(submission, "begun")
    api = docker.APIClient(base_url=services.docker_host)
    shown = json.dumps(api.inspect_container(name_of(submission))).encode()
    api.close()
    assert b"SECRETS_PATH=/run/secrets" in shown
    assert [form for form in FORMS if form in shown] == []
    owner = (memory(node) / name_of(submission) / "token").stat()
    assert (owner.st_uid, owner.st_gid) == (65534, 65534)
    (house.folder(submission) / "sandbox/go").touch()
    assert house.result(submission).state is State.SUCCEEDED


def test_a_task_that_prints_it_prints_something_else(house: Rig, node: str, image: str) -> None:
    submission = shell(house, 'echo "a $(cat "$SECRETS_PATH/token") b" >&2; exit 3', image, "token")
    result = house.result(submission)
    assert (result.state, result.tail) == (State.FAILED, ("a [secret] b",))
    assert house.output(result, "logs/run.log") == b"a [secret] b\n"
    eventually("it is out of memory", lambda: not (memory(node) / name_of(submission)).exists())
    house.check_clean(node)
    assert told(house) == []


@pytest.mark.parametrize("house", ["docker"], indirect=True)  # a process has the rights of its worker
def test_it_cannot_be_written_nor_kept_from_being_taken_away(house: Rig, node: str, image: str) -> None:
    script = '(echo x > "$SECRETS_PATH/token"; rm "$SECRETS_PATH/token"; touch "$SECRETS_PATH/more") 2>/dev/null; ls "$SECRETS_PATH"'
    result = house.result(shell(house, script, image, "token"))
    assert (result.state, result.tail) == (State.SUCCEEDED, ("token",))


def test_a_task_that_asks_for_none_finds_none(house: Rig, node: str, image: str) -> None:
    result = house.result(shell(house, 'ls "$SECRETS_PATH" 2>/dev/null; exit 0', image))
    assert (result.state, result.tail) == (State.SUCCEEDED, ())


@pytest.mark.parametrize(("name", "code"), [("other", "secret-unknown"), ("gone", "secret-unavailable")])
def test_what_the_site_does_not_have_is_refused(house: Rig, node: str, image: str, name: str, code: str) -> None:
    result = house.result(shell(house, "true", image, name))
    assert result.reason is not None
    assert (result.state, result.reason.code, result.reason.fault) == (State.REJECTED, code, Fault.POLICY)
    assert list(memory(node).glob("*")) == []
