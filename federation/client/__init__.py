"""The Python client of the gateway, for notebooks and programs: `Client(url, token)`, or `AsyncClient` where there is an event loop."""

from federation.client.client import AsyncClient, Client
from federation.client.errors import Problem
from federation.client.shown import Execution, Nodes, Tools

__all__ = ["AsyncClient", "Client", "Execution", "Nodes", "Problem", "Tools"]
