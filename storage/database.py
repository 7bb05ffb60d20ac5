"""The SQL database below the records: opened, its schema made, its errors told as our own. SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from fdn_worker.errors import SettingsError, SystemFault
from fdn_worker.protocol.chain import BEGIN
from storage import accounts, key_rows
from storage.schema import SCHEMA_VERSION, UPGRADES, audit_head, metadata, schema_version

#: Seconds that a writer waits for another one.
LOCK_TIMEOUT = 30
_FORMS = "write sqlite:////PATH/records.db or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"


class RecordsUnavailable(SystemFault):
    """The records cannot be reached, read or written."""

    code = "records-unavailable"


@dataclass(frozen=True)
class Dialect:
    """Where the databases differ."""

    driver: str
    #: Makes an INSERT that knows ON CONFLICT.
    insert: Callable[..., Any]
    connect_args: Mapping[str, Any]
    #: Statements that keep others from making the schema at the same time; SQLite's BEGIN IMMEDIATE does.
    before_schema: tuple[str, ...] = ()
    prepare: Callable[[Engine], None] | None = None
    #: The type of a moment's column.
    moment: str = "DATETIME"


def _prepare_sqlite(engine: Engine) -> None:
    """WAL for readers beside a writer; FULL, since an event is acknowledged to the broker once it is written here."""

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        # a reader that turns writer could not wait for another writer, so writers say at once what they are
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


DIALECTS = {
    "sqlite": Dialect("sqlite", sqlite.insert, {"timeout": LOCK_TIMEOUT}, prepare=_prepare_sqlite),
    "postgresql": Dialect(
        "postgresql+psycopg", postgresql.insert, {"connect_timeout": 5}, ("SELECT pg_advisory_xact_lock(7061273)",),
        moment="TIMESTAMP WITH TIME ZONE",
    ),
}  # fmt: skip


class Database:
    """A database with the records' schema. Safe from several threads and beside other processes."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._engine, self._writer = engine, engine.execution_options(writes=True)
        #: The address without its password, for messages.
        self.where = engine.url.database or "" if dialect.driver == "sqlite" else engine.url.render_as_string(hide_password=True)
        self.insert = dialect.insert
        with self.write() as connection:
            for statement in dialect.before_schema:
                connection.execute(text(statement))
            metadata.create_all(connection)
            version = connection.scalar(select(schema_version.c.version))
            if version is None or version < 3:
                connection.execute(audit_head.insert().values(number=BEGIN.number, hash=BEGIN.hash))
            if version is None:
                connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
            elif version < SCHEMA_VERSION:
                for older in range(version, SCHEMA_VERSION):
                    for statement in UPGRADES[older]:
                        connection.execute(text(statement.format(moment=dialect.moment)))
                if version < 2:
                    accounts.fill(connection)
                if version < 3:
                    key_rows.fill(connection)
                connection.execute(schema_version.update().values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise SettingsError(
                    f"the records at {self.where} have schema version {version}, this program has {SCHEMA_VERSION}",
                    remedy="use the release that wrote them, or a later one",
                )

    @classmethod
    def open(cls, address: str) -> Database:
        """The database at an SQLAlchemy URL; what is missing of a SQLite file's folder is made."""
        url = _parsed(address)
        dialect = DIALECTS[url.get_backend_name()]
        if url.get_backend_name() == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise SettingsError("the records' address names no file", remedy=_FORMS)
            folder = Path(str(url.database)).absolute().parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecordsUnavailable(
                    f"records folder {folder}: {error.strerror}", remedy="name a folder that can be written"
                ) from error
        try:
            engine = create_engine(url, connect_args=dict(dialect.connect_args), pool_pre_ping=url.get_backend_name() != "sqlite")
        except ModuleNotFoundError as error:
            raise SettingsError(f"records: {error}", remedy="install the extra `postgresql`") from error
        if dialect.prepare:
            dialect.prepare(engine)
        try:
            return cls(engine, dialect)
        except BaseException:
            engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that writes nothing."""
        with self._told(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction; committed at the end, undone by an exception."""
        with self._told(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            line = next(iter(str(reason).splitlines()), type(reason).__name__)
            raise RecordsUnavailable(f"records at {self.where}: {line}", remedy="check the address, its rights and the disk") from error


def _parsed(address: str) -> URL:
    """The URL with the driver that we use. No error shows the address, which may hold a password."""
    try:
        url = make_url(address)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):
        backend = ""
    if backend not in DIALECTS:
        raise SettingsError("the records' address cannot be read, or is of a database that is not known", remedy=_FORMS)
    return url.set(drivername=DIALECTS[backend].driver)
