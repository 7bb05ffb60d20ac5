"""What can be wrong with a simulation."""

from __future__ import annotations

from fdn_worker.errors import Fault, FdnError, SystemFault


class SimulationError(FdnError):
    """What the user asked for cannot be simulated; says what, where and how to mend it."""

    code = "simulation"
    fault = Fault.USER


class NoClient(SimulationError):
    """A round that nobody takes part in."""

    code = "no-client"


class WorkersLost(SystemFault):
    """The same job ended its worker again and again."""

    code = "workers-lost"
    retryable = False
