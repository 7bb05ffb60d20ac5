"""The daemon of a federated data node, and the wire contract that it shares with the centre."""

__version__ = "0.1.0"
