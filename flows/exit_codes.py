"""What an end means to the shell: the exit codes of `fem`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fdn_worker.errors import FdnError
    from federation.execution import ExecutionResult
    from federation.results import TaskResult

SUCCEEDED, FAILED, USAGE, INFRASTRUCTURE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def of_task(result: TaskResult) -> int:
    """Of an ended task."""
    from fdn_worker.protocol import State

    if result.state is State.REJECTED:
        return REFUSED
    if result.state is State.CANCELLED:
        return INTERRUPTED
    if result.state is State.SUCCEEDED:
        return SUCCEEDED
    return INFRASTRUCTURE if result.reason is not None and result.reason.fault == "infrastructure" else FAILED


def of_execution(result: ExecutionResult) -> int:
    """Of an ended execution."""
    from fdn_worker.errors import Fault
    from fdn_worker.protocol import State

    if result.state in ("Succeeded", "Degraded"):
        return SUCCEEDED
    if result.state == "Cancelled":
        return INTERRUPTED
    bad = [run for run in result.runs if run.state is not State.SUCCEEDED]
    if bad and all(run.state is State.REJECTED for run in bad):
        return REFUSED
    user = any(run.reason is not None and run.reason.fault is Fault.USER for run in bad)
    return FAILED if user or not bad else INFRASTRUCTURE


def of_error(error: FdnError) -> int:
    """Of an error that ended the command."""
    from fdn_worker.errors import Fault, SettingsError

    if error.fault is Fault.POLICY:
        return REFUSED
    return USAGE if isinstance(error, SettingsError) or error.fault is Fault.USER or error.code == "bad-name" else INFRASTRUCTURE
