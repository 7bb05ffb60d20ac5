"""Prefect blocks: where a federation's broker, object store and records are. Register them: `prefect block register -m blocks`."""

from blocks.federation import FederationBroker, FederationRecords, FederationStore

__all__ = ["FederationBroker", "FederationRecords", "FederationStore"]
