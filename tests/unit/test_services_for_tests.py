"""How the real services of the tests are started and ended, tried on processes that cost nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.services import images, installs, lifecycle, minio, prefect_seed, rabbitmq
from deployments.services.place import Place, ServiceError
from deployments.services.processes import Process, free_ports, marked, start, stop, wait_until
from tests.support.child import child

FOREVER = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"]
STUBBORN = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"]
#: Its child is in a session and an environment of its own, as a container is.
FAMILY = [sys.executable, "-c", f"import subprocess; subprocess.Popen({FOREVER!r}, env={{}}, start_new_session=True).wait()"]


@pytest.fixture
def mark(unique: str) -> Iterator[str]:
    yield unique
    stop(marked(unique), patience=0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Without the seed, which takes 20 s."""
    monkeypatch.setattr(prefect_seed, "ensure", lambda _: None)
    return Place.of({"FEM_CACHE": str(tmp_path / "cache")})


def begin(argv: list[str], log: Path, mark: str) -> Process:
    process = start("trial", argv, os.environ, log, mark)
    wait_until(lambda: "ready" in log.read_text(), process, log, 20.0)
    return process


def test_a_daemon_has_a_session_of_its_own_and_is_ended(tmp_path: Path, mark: str) -> None:
    process = begin(FOREVER, tmp_path / "log", mark)
    assert process.alive
    assert os.getsid(process.pid) == process.pid
    stop([process])
    assert not process.alive


def test_what_does_not_heed_term_is_killed(tmp_path: Path, mark: str) -> None:
    process = begin(STUBBORN, tmp_path / "log", mark)
    stop([process], patience=0.1)
    assert not process.alive


def test_a_pid_that_belongs_to_somebody_else_by_now_is_left_alone(tmp_path: Path, mark: str) -> None:
    process = begin(FOREVER, tmp_path / "log", mark)
    earlier = replace(process, started="of an earlier boot:1")
    assert not earlier.alive
    stop([earlier])
    assert process.alive


def test_all_that_descends_from_a_service_is_found(tmp_path: Path, mark: str) -> None:
    process = begin(FAMILY, tmp_path / "log", mark)
    found = {each.pid for each in marked(mark)}
    assert process.pid in found
    assert len(found) == 2
    stop(marked(mark), patience=0)
    assert marked(mark) == []


def test_a_daemon_that_dies_while_it_starts_is_told_with_its_log(tmp_path: Path, mark: str) -> None:
    log = tmp_path / "log"
    process = start("trial", [sys.executable, "-c", "raise SystemExit('no such plug-in')"], os.environ, log, mark)
    with pytest.raises(ServiceError, match=r"trial ended while it started[^$]*no such plug-in"):
        wait_until(lambda: False, process, log)


def test_free_ports_differ_and_lie_below_those_of_outgoing_connections() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    assert all(20000 <= port < 32000 for port in ports)


def test_only_a_folder_of_our_own_is_ever_emptied(tmp_path: Path) -> None:
    given = Place.of({"FEM_SERVICES": str(tmp_path / "mine.json")})
    assert given.folder == tmp_path / "mine.json.d"
    assert len(f"{given.run}/exec/containerd/containerd.sock.ttrpc") < 108
    usual = Place.of({})
    assert usual.json.parts[-3:] == (".cache", "services", "services.json")
    assert usual.tag != given.tag


def test_services_that_somebody_else_described_are_used_and_left_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.json.parent.mkdir(parents=True)
    place.json.write_text("{}")
    command = [sys.executable, "-c", "import os, sys; sys.exit(7 if os.environ['FEM_SERVICES'].endswith('services.json') else 1)"]
    assert lifecycle.during(place, command) == 7
    assert place.json.read_text() == "{}"
    assert lifecycle.status(place)
    assert "left as it is" in capsys.readouterr().out


def test_down_ends_what_an_interrupted_start_left(place: Place, mark: str) -> None:
    process = begin(FOREVER, place.folder / "log", str(place.json))
    place.state.write_text(json.dumps([vars(process)]))
    assert not lifecycle.is_up(place)
    lifecycle.down(place)
    assert not process.alive
    assert not place.state.exists()


def test_a_failed_start_leaves_nothing_running(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Process] = []

    def launch(at: Place, note: object) -> None:
        launched.append(begin(FOREVER, at.folder / "log", str(at.json)))
        lifecycle._note(at, launched[0])
        raise ServiceError("no room")

    monkeypatch.setattr(rabbitmq, "launch", launch)
    monkeypatch.setattr(installs, "perform", lambda _: None)
    monkeypatch.setattr(minio, "installs", lambda _: [])
    with pytest.raises(ServiceError, match="no room"):
        lifecycle.up(place)
    assert [process.alive for process in launched] == [False]
    assert not place.json.exists()


def test_ctrl_c_is_the_commands_affair_and_the_services_still_go_down(place: Place, tmp_path: Path) -> None:
    place.json.parent.mkdir(parents=True)
    place.json.write_text("{}")
    inner = "import time\ntry:\n print('ready', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n raise SystemExit(130)"
    program = (
        "import sys; from pathlib import Path; from deployments.services import lifecycle, prefect_seed; from deployments.services.place import Place\n"
        "prefect_seed.ensure = lambda _: None\n"
        f"sys.exit(lifecycle.during(Place.of({{'FEM_CACHE': {str(place.cache)!r}}}), [sys.executable, '-c', {inner!r}]))"
    )
    with child([sys.executable, "-c", program], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            assert line, "it ended before the command began"
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "left as it is" in rest


def test_without_root_the_commands_are_said_and_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(installs, "run", lambda *_: pytest.fail("nothing may be run"))
    with pytest.raises(ServiceError, match=r"sudo DEBIAN_FRONTEND=noninteractive apt-get install .* docker.io rabbitmq-server"):
        installs.perform(installs.packages({"rabbitmq-server": True, "docker.io": True, "mmdebstrap": False}))
    assert "going to install" in capsys.readouterr().out


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(ServiceError, match=r"failed with status 3[^$]*no network"):
        installs.run([sys.executable, "-c", "print('no network'); raise SystemExit(3)"])


def test_the_busybox_image_has_every_applet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "busybox"
    program.write_text("#!/bin/sh\necho busybox\necho '[['\necho sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with tarfile.open(fileobj=io.BytesIO(images.busybox_archive())) as tar:
        members = {member.name: member for member in tar}
    assert set(members) == {"bin", "tmp", "bin/busybox", "bin/[[", "bin/sh"}
    assert members["bin/sh"].linkname == "busybox"
    assert members["tmp"].mode == 0o1777
