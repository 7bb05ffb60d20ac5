"""Keys of objects, and nothing else spells one."""

from __future__ import annotations

from uuid import UUID

from fdn_worker.protocol.base import check_relative_path
from fdn_worker.protocol.names import check_id


def execution_prefix(execution: UUID) -> str:
    """All of an execution."""
    return f"executions/{execution}/"


def task_prefix(execution: UUID, task: str) -> str:
    """All of one task of an execution."""
    return f"{execution_prefix(execution)}{check_id(task, 'task')}/"


def attempt_prefix(execution: UUID, task: str, node: str, attempt: int) -> str:
    """All that an attempt leaves: `outputs/`, `logs/`, `manifest.json`."""
    return f"{task_prefix(execution, task)}{check_id(node, 'node')}/{attempt}/"


def input_key(execution: UUID, task: str, name: str) -> str:
    """An input, one for all nodes and attempts of the task: `inputs.` can be no node, for the dot."""
    return f"{task_prefix(execution, task)}inputs./{check_relative_path(name)}"


def source_key(execution: UUID, task: str, sha256: str) -> str:
    """A source that goes with the orders of a task: a Git pack, named by what it holds."""
    return f"{task_prefix(execution, task)}source./{sha256}.pack"


def attempt_key(execution: UUID, task: str, node: str, attempt: int, path: str) -> str:
    """One object of an attempt; `path` may not climb."""
    return attempt_prefix(execution, task, node, attempt) + check_relative_path(path)


def session_prefix(session: str) -> str:
    """All that a session of federated learning keeps; no execution's, so that retention leaves it alone."""
    return f"models/{UUID(session)}/"


def model_key(session: str, model: str) -> str:
    """A model of the session."""
    return f"{session_prefix(session)}{UUID(model)}.safetensors"


def model_state_key(session: str, model: str) -> str:
    """What the aggregator remembers with that model."""
    return f"{session_prefix(session)}{UUID(model)}.state.safetensors"


def client_states_prefix(session: str, client: str) -> str:
    """What the aggregator remembers of one client, after each of its rounds that is still of use."""
    return f"{session_prefix(session)}clients/{check_id(client, 'client')}/"


def client_state_key(session: str, client: str, number: int) -> str:
    """The same after round `number`: a round that is run again must find what was remembered before it."""
    return f"{client_states_prefix(session, client)}{number:08}.safetensors"


def package_key(checksum: str, name: str) -> str:
    """A file of a client package, one for all sessions that use the package."""
    return f"packages/{checksum}/{check_relative_path(name)}"
