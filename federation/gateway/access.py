"""Who may do what: the one place that decides, for every interface. Pure: a caller, an action and a thing in, yes or no out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Protocol


class Role(StrEnum):
    """What somebody is to the federation."""

    RESEARCHER = "researcher"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


class Action(StrEnum):
    """All that can be asked of the gateway."""

    #: Nodes, tools, sessions' and simulations' configuration: what the federation is.
    FEDERATION_READ = "federation.read"
    #: Ask the nodes what they would say to a submission.
    TOOLS_PLAN = "tools.plan"
    #: Ask nodes how they are: a health check runs there.
    NODES_CHECK = "nodes.check"
    #: Pause, resume, drain, enrol, retire; purge a queue.
    NODES_MANAGE = "nodes.manage"
    EXECUTIONS_LIST = "executions.list"
    EXECUTIONS_SUBMIT = "executions.submit"
    EXECUTIONS_READ = "executions.read"
    EXECUTIONS_LOGS = "executions.logs"
    #: List and download what came back.
    EXECUTIONS_OUTPUTS = "executions.outputs"
    EXECUTIONS_CANCEL = "executions.cancel"
    EXECUTIONS_RETRY = "executions.retry"
    #: Sessions of learning and simulations, with their metrics.
    SESSIONS_READ = "sessions.read"
    #: Have a session pause, go on or stop.
    SESSIONS_STEER = "sessions.steer"
    #: Download a model, and see what it came from.
    MODELS_READ = "models.read"
    #: Accounting: who used what.
    REPORTS_READ = "reports.read"
    AUDIT_READ = "audit.read"
    #: What Prometheus asks for.
    METRICS_READ = "metrics.read"
    #: One's own name, tokens and password.
    ACCOUNT = "account"
    USERS_MANAGE = "users.manage"


class Scope(Enum):
    """Of which things an action is allowed."""

    NONE = "none"
    #: One's own.
    OWN = "own"
    #: One's own, and those of the projects shared with one.
    SHARED = "shared"
    #: In one's own name, for no project or for one of one's own.
    AS_SELF = "as self"
    ALL = "all"


class Owned(Protocol):
    """A thing that is somebody's: the rows of executions are."""

    @property
    def user(self) -> str: ...
    @property
    def project(self) -> str: ...


@dataclass(frozen=True)
class Caller:
    """Who asks. `token` is the digest of what was shown, by which it can be revoked; never the token itself."""

    name: str
    role: Role
    projects: frozenset[str] = frozenset()
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Asked:
    """A thing that is not there yet: what is to be made, and in whose name."""

    user: str
    project: str = ""


_N, _O, _S, _A, _SELF = Scope.NONE, Scope.OWN, Scope.SHARED, Scope.ALL, Scope.AS_SELF
#: The table; docs/reference/gateway.md shows it. Columns as in Role. A retry runs in the first submitter's name at the sites, so
#: that of somebody else's execution is for operators alone.
ALLOWED: Mapping[Action, Mapping[Role, Scope]] = {
    action: dict(zip(Role, scopes, strict=True))
    for action, scopes in {
        Action.FEDERATION_READ:    (_A, _A, _A, _A),
        Action.TOOLS_PLAN:         (_SELF, _SELF, _N, _SELF),
        Action.NODES_CHECK:        (_A, _A, _N, _A),
        Action.NODES_MANAGE:       (_N, _A, _N, _A),
        Action.EXECUTIONS_LIST:    (_S, _A, _A, _A),
        Action.EXECUTIONS_SUBMIT:  (_SELF, _SELF, _N, _SELF),
        Action.EXECUTIONS_READ:    (_S, _A, _A, _A),
        Action.EXECUTIONS_LOGS:    (_S, _A, _A, _A),
        Action.EXECUTIONS_OUTPUTS: (_S, _S, _A, _A),
        Action.EXECUTIONS_CANCEL:  (_S, _A, _N, _A),
        Action.EXECUTIONS_RETRY:   (_O, _A, _N, _A),
        Action.SESSIONS_READ:      (_S, _A, _A, _A),
        Action.SESSIONS_STEER:     (_S, _A, _N, _A),
        Action.MODELS_READ:        (_S, _S, _A, _A),
        Action.REPORTS_READ:       (_S, _A, _A, _A),
        Action.AUDIT_READ:         (_N, _N, _A, _A),
        Action.METRICS_READ:       (_N, _A, _A, _A),
        Action.ACCOUNT:            (_A, _A, _A, _A),
        Action.USERS_MANAGE:       (_N, _N, _N, _A),
    }.items()
}  # fmt: skip


def scope(caller: Caller, action: Action) -> Scope:
    """Of which things the caller may do this: by it lists are narrowed before they are read."""
    return ALLOWED[action][caller.role]


def decide(caller: Caller, action: Action, thing: Owned | None = None) -> bool:
    """Whether the caller may. Without a `thing` it is about things in general: whether there may be one at all."""
    allowed = scope(caller, action)
    if allowed is Scope.NONE:
        return False
    if allowed is Scope.ALL or thing is None:
        return True
    # No project is nobody's.
    own, member = thing.user == caller.name, bool(thing.project) and thing.project in caller.projects
    if allowed is Scope.OWN:
        return own
    if allowed is Scope.SHARED:
        return own or member
    return own and (member or not thing.project)
