"""Records on SQLite, and on PostgreSQL where it is installed; a second RabbitMQ, with TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from storage.records import Records
from tests.support.submitted import Submitted
from tests.support.tls_broker import TlsBroker, running_tls_broker

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """A PostgreSQL of the tests' own, on a socket; the call makes a database and gives its address."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="fem-pg-"))
    as_user: dict[str, Any] = {"capture_output": True, "check": True, "cwd": "/"}
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        shutil.chown(folder, "postgres", "postgres")
        as_user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    bin_, data = POSTGRES[-1].parent, folder / "data"
    subprocess.run([bin_ / "initdb", "-D", data, "-U", "fem", "-A", "trust", "-E", "UTF8", "--no-sync"], **as_user)
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([POSTGRES[-1], "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **as_user)
    admin = create_engine(f"postgresql+psycopg://fem@/postgres?host={folder}", isolation_level="AUTOCOMMIT")

    def fresh(name: str) -> str:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return f"postgresql+psycopg://fem@/{name}?host={folder}"

    try:
        yield fresh
    finally:
        admin.dispose()
        subprocess.run([POSTGRES[-1], "-D", data, "-w", "-m", "immediate", "stop"], **as_user)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/records.db"
    address: str = request.getfixturevalue("postgres")(unique)
    return address


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    opened = Records.open(url)
    yield opened
    opened.close()


@pytest.fixture
def one(records: Records) -> Submitted:
    return Submitted(records)


@pytest.fixture(scope="session")
def tls_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """Started with the first test that needs it, ended with the session."""
    with running_tls_broker(tmp_path_factory.mktemp("tls-broker")) as broker:
        yield broker
