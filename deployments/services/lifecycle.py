"""Up, down, status, and one command in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from dataclasses import asdict

from deployments.services import engine, images, installs, minio, prefect_seed, rabbitmq
from deployments.services.place import Place, say
from deployments.services.processes import Process, marked, stop


def up(place: Place) -> None:
    """Have all services; nothing is left running when that fails."""
    with place.lock():
        prefect_seed.ensure(place)
        if not place.state.exists() and place.json.exists():
            say(f"{place.json} was not written here; the services that it names are used as they are")
            return
        if is_up(place):
            say(f"up already: {place.json}")
            return
        _take_down(place)
        host = engine.running()
        wanted = {**rabbitmq.missing(), **engine.missing(own=host is None), **images.missing(place)}
        # No service, but what tests of pages look through.
        wanted["chromium"] = shutil.which("chromium") is None
        installs.perform([*installs.packages(wanted), *minio.installs(place), *images.installs(place)])
        images.keep(place)
        with ExitStack() as undo:
            undo.callback(_take_down, place)
            broker = rabbitmq.launch(place, lambda process: _note(place, process))
            store = minio.launch(place, lambda process: _note(place, process))
            host = host or engine.launch(place, lambda process: _note(place, process))
            images.load(place, host)
            store.wait()
            broker.wait()
            addresses = {
                "amqp_url": broker.amqp_url,
                "amqp_management_url": broker.management_url,
                "s3_url": store.url,
                "docker_host": host,
                "images": {"busybox": images.BUSYBOX, "python": images.PYTHON},
            }
            fresh = place.json.with_suffix(".new")
            fresh.write_text(json.dumps(addresses, indent=1) + "\n")
            fresh.replace(place.json)
            undo.pop_all()
        say(f"up: {place.json}")


def down(place: Place) -> None:
    """End exactly what was started here."""
    with place.lock():
        prefect_seed.ensure(place)
        if not place.state.exists() and place.json.exists():
            say(f"{place.json} was not written here; what it names is left as it is")
            return
        _take_down(place)
        say("down")


def is_up(place: Place) -> bool:
    """Written to the end, and every process of it alive."""
    return place.json.exists() and place.state.exists() and all(process.alive for process in started(place))


def started(place: Place) -> list[Process]:
    """What `up` started, in order."""
    return [Process(**entry) for entry in json.loads(place.state.read_text())] if place.state.exists() else []


def status(place: Place) -> bool:
    """Say how each stands; True when all are up."""
    for process in started(place):
        say(f"{process.name:10} pid {process.pid:7} {'running' if process.alive else 'ENDED'}")
    ready = place.json.exists() and all(process.alive for process in started(place))
    say(f"addresses: {place.json}" if ready else "not up; start them with `make services`")
    return ready


def during(place: Place, command: list[str]) -> int:
    """Services up, the command, services down again unless they were up before. Returns the command's exit code."""
    with ExitStack() as after:
        if not is_up(place):
            after.callback(down, place)
        up(place)
        # From here on a Ctrl-C is the command's affair, which gets it from the terminal (a handler, unlike SIG_IGN, is not inherited).
        signal.signal(signal.SIGINT, lambda *_: None)
        child = subprocess.Popen(command, env={**os.environ, "FEM_SERVICES": str(place.json)})
        signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        child.wait()
        return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _note(place: Place, process: Process) -> None:
    place.state.write_text(json.dumps([asdict(entry) for entry in [*started(place), process]], indent=1) + "\n")


def _take_down(place: Place) -> None:
    place.json.unlink(missing_ok=True)
    processes = started(place)
    engine.clear(place, next((process for process in processes if process.name == "dockerd"), None))
    stop(processes, patience=1.0)  # RabbitMQ would take 6 s to close the data that is thrown away below
    stop(marked(str(place.json)), patience=0)
    engine.sweep(place)
    for name in ("rabbitmq", "minio"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
    place.state.unlink(missing_ok=True)
