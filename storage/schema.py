"""The tables of the records: executions, their runs, attempts and events, their accounts, the nodes, the tools, and learning.

A change of the schema adds one to SCHEMA_VERSION; opening records of an earlier version then brings them up in the same
transaction that looks at the version, under the same lock. Records of a later version than this are refused.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Enum,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
)

from fdn_worker.protocol import State

SCHEMA_VERSION = 4
#: Largest number of an attempt or event that a column takes.
LARGEST_NUMBER = 2**31 - 1


class Moment(TypeDecorator[datetime]):
    """An aware time, in UTC. SQLite keeps no zone, so it is taken off and put on again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no zone")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _id() -> Uuid[str]:
    return Uuid(as_uuid=False)


def _state() -> Enum:
    return Enum(State, native_enum=False, length=20)


metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

executions = Table(
    "executions",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("user", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("created", Moment, nullable=False),
    Column("closed", Moment),
    Column("state", String(20), nullable=False),
    Column("outcome", Text),
    Column("document", Text),
    Column("flow_run", Text),
    Column("suspended", Moment),
    Column("cleaned", Moment),
    Column("swept", Moment),
    Index("executions_by_age", "created"),
    Index("executions_of_user", "user", "created"),
    Index("executions_in_state", "state", "created"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("execution", _id(), ForeignKey("executions.id"), nullable=False, index=True),
    Column("task", String(63), nullable=False),
    Column("node", String(63), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", _state(), nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("run", _id(), ForeignKey("runs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("order_body", LargeBinary, nullable=False),
    Column("issued", Moment, nullable=False),
    Column("deadline", Moment, nullable=False),
    Column("dispatched", Moment),
    Column("state", _state(), nullable=False),
    Column("state_at", Moment, nullable=False),
    Column("last_number", Integer, nullable=False),
    Column("reason_code", Text),
    Column("reason_fault", Text),
    Column("reason_message", Text),
    Column("report", Text),
    Column("cancel_requested", Moment),
)

events = Table(
    "events",
    metadata,
    Column("run", _id(), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("received", Moment, nullable=False),
    Column("state", _state()),
    Column("body", Text, nullable=False),
    ForeignKeyConstraint(["run", "attempt"], ["attempts.run", "attempts.attempt"]),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("enrolled", Moment, nullable=False),
    Column("retired", Moment),
    Column("last_seen", Moment),
    Column("heartbeat", Text),
    Column("document", Text),
    Column("paused", Moment),
)

node_keys = Table(
    "node_keys",
    metadata,
    Column("node", String(63), ForeignKey("nodes.name"), primary_key=True),
    Column("key_id", String(128), primary_key=True),
    Column("public_key", Text, nullable=False),
    Column("added", Moment, nullable=False),
    Column("revoked", Moment),
    Column("why", Text),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(40), nullable=False, index=True),
    Column("line", Text, nullable=False),
)

#: One row: where the log ends, and the lock of those who write it.
audit_head = Table(
    "audit_head",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
)

tools = Table(
    "tools",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("document", Text, nullable=False),
    Column("changed", Moment, nullable=False),
    Column("withdrawn", Moment),
)

accounts = Table(
    "accounts",
    metadata,
    Column("run", _id(), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("execution", _id(), nullable=False),
    Column("user", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("task", String(63), nullable=False),
    Column("node", String(63), nullable=False),
    Column("state", _state(), nullable=False),
    Column("reason_code", Text),
    Column("reason_fault", Text),
    Column("launcher", Text),
    Column("image_digest", Text),
    Column("exit_code", Integer),
    Column("cpu_seconds", Float, nullable=False),
    Column("peak_memory", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("issued", Moment, nullable=False),
    Column("ended", Moment, nullable=False),
    Column("waiting", Float, nullable=False),
    Column("staging_in", Float, nullable=False),
    Column("running", Float, nullable=False),
    Column("staging_out", Float, nullable=False),
    Column("releasing", Float, nullable=False),
    Index("accounts_by_end", "ended"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("configuration", Text, nullable=False),
    Column("package", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("wanted", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("flow_run", Text),
    Column("created", Moment, nullable=False),
    Column("changed", Moment, nullable=False),
    Column("ended", Moment),
    Index("sessions_by_age", "created"),
)

models = Table(
    "models",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("session", _id(), ForeignKey("sessions.id"), nullable=False, index=True),
    Column("round", Integer, nullable=False),
    Column("parent", _id(), ForeignKey("models.id"), index=True),
    Column("created", Moment, nullable=False),
    Column("where_", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("examples", Float),
    Column("metrics", JSON, nullable=False),
    Column("participants", Integer, nullable=False),
    Column("deleted", Moment),
    Column("released", Moment),
    Column("released_by", Text),
    Column("note", Text),
)

rounds = Table(
    "rounds",
    metadata,
    Column("session", _id(), ForeignKey("sessions.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(20), nullable=False),
    Column("began", Moment, nullable=False),
    Column("ended", Moment),
    Column("model", _id(), ForeignKey("models.id")),
    Column("reason", Text, nullable=False),
    Column("requested", JSON, nullable=False),
)

#: `run` names one of `runs`, and outlasts it: retention deletes those.
updates = Table(
    "updates",
    metadata,
    Column("session", _id(), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("client", String(63), primary_key=True),
    Column("combiner", Text, nullable=False, default=""),
    Column("run", _id()),
    Column("outcome", String(20)),
    Column("reason", Text, nullable=False, default=""),
    Column("examples", Float),
    Column("metrics", JSON, nullable=False, default=dict),
    Column("began", Moment, nullable=False),
    Column("ended", Moment),
    Column("validated", JSON(none_as_null=True)),
    Column("validation_began", Moment),
    Column("validation_ended", Moment),
    ForeignKeyConstraint(["session", "round"], ["rounds.session", "rounds.number"]),
)

measures = Table(
    "measures",
    metadata,
    Column("session", _id(), ForeignKey("sessions.id"), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("client", String(63), primary_key=True),
    Column("phase", String(20), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float),
    Column("at", Moment, nullable=False),
)

#: Those who sign in here; of somebody who comes from an issuer there is none.
users = Table(
    "users",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("password", Text),
    Column("role", String(20), nullable=False),
    Column("created", Moment, nullable=False),
    Column("disabled", Moment),
)

memberships = Table(
    "memberships",
    metadata,
    Column("user", String(63), ForeignKey("users.name"), primary_key=True),
    Column("project", String(200), primary_key=True),
)

#: Hashes of what was handed out, never a token itself; and of an issuer's tokens those that were revoked here.
tokens = Table(
    "tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("user", Text, nullable=False),
    Column("family", _id(), nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, index=True),
    Column("used", Moment),
    Column("revoked", Moment),
    Index("tokens_of_user", "user", "kind"),
)

#: How often something happened within a minute, over all gateways.
rates = Table(
    "rates",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("minute", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
)

#: Version of the records -> statements that bring them to the next; tables that are missing are made beforehand.
UPGRADES: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE executions ADD COLUMN outcome TEXT",
        "ALTER TABLE executions ADD COLUMN document TEXT",
        "ALTER TABLE executions ADD COLUMN flow_run TEXT",
        "ALTER TABLE executions ADD COLUMN suspended {moment}",
        "ALTER TABLE executions ADD COLUMN cleaned {moment}",
        "ALTER TABLE executions ADD COLUMN swept {moment}",
        "ALTER TABLE nodes ADD COLUMN document TEXT",
        "ALTER TABLE nodes ADD COLUMN paused {moment}",
    ),
    2: (),
    3: (),
}
