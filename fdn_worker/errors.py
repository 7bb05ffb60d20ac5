"""Every error of the worker and of the contract, in one tree.

An error's message says what is wrong and where; `remedy` says how to mend it. `code` is the short name
that travels on the wire and stands in records; tracebacks stay where they were raised.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """Who can mend a failure: decides whether it is ever tried again."""

    USER = "user"
    POLICY = "policy"
    INFRASTRUCTURE = "infrastructure"


class FdnError(Exception):
    """The root. `code` may be given for one error, or stands with its class."""

    code = "error"
    fault = Fault.INFRASTRUCTURE

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class SettingsError(FdnError):
    """A settings file or variable is wrong; names the key and its place."""

    code = "settings"


class MessageError(FdnError):
    """A message cannot be read, has an unknown major version, or carries a bad signature: to the dead letters."""

    code = "message"


class PolicyRefused(FdnError):
    """The site's own rules say no."""

    code = "refused"
    fault = Fault.POLICY


class TaskFailed(FdnError):
    """The task itself, or what its user asked for, is at fault; never tried again."""

    code = "task-failed"
    fault = Fault.USER


class SystemFault(FdnError):
    """Ours to mend. `retryable` tells whether the same call may succeed later."""

    code = "system"
    retryable = True


class BrokerUnavailable(SystemFault):
    """The broker cannot be reached, refuses us, or did not confirm in time."""

    code = "broker-unavailable"


class Unroutable(SystemFault):
    """No queue takes this message: the node was never enrolled, or is retired."""

    code = "unroutable"
    retryable = False


class LauncherUnavailable(SystemFault):
    """The engine that starts tasks (Docker, the process shim) does not answer."""

    code = "launcher-unavailable"


class RunVanished(SystemFault):
    """What the launcher had started is gone, and its exit status with it."""

    code = "vanished"
    retryable = False


class StoreUnavailable(SystemFault):
    """The object store cannot be reached or refuses us."""

    code = "store-unavailable"


class ObjectMissing(SystemFault):
    """The store has no object under that key."""

    code = "object-missing"
    retryable = False


class JournalUnavailable(SystemFault):
    """The node's journal cannot be written (disk full, read-only): intake stops."""

    code = "journal-unavailable"
