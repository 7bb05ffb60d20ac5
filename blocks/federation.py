"""The three blocks of a federation, each little more than fields and `get_client`."""

from __future__ import annotations

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from fdn_worker.brokers import Broker, connect
from storage.objects import ObjectStore, open_store
from storage.records import Records


class FederationBroker(Block):
    """The broker that carries orders to the nodes and their events back."""

    _block_type_name = "Federation Broker"
    _block_type_slug = "federation-broker"
    _description = "RabbitMQ (amqps://) or the embedded SQLite broker of a federation."

    url: SecretStr = Field(title="Address", description="amqps://USER:PASSWORD@HOST:5671/, or sqlite:///PATH for an embedded federation.")
    site_url: str = Field(
        "", title="Address for sites", description="amqps://HOST:PORT/?... as the sites see the broker, where that differs."
    )
    signing_key: str = Field(
        "", title="Signing key", description="File with the centre's private key, where the flow runs; none in an embedded federation."
    )
    key_id: str = Field("centre", title="Key id", description="The name under which the nodes know that key.")
    relay: Literal["process", "service"] = Field(
        "process",
        title="Relay",
        description="service: `fem relay` runs, and long waits may be suspended; process: each flow brings its own.",
    )

    def get_client(self) -> Broker:
        """A connection of its own."""
        return connect(self.url.get_secret_value(), name="fem")


class FederationStore(Block):
    """The object store that takes inputs, and the outputs and logs that sites release."""

    _block_type_name = "Federation Store"
    _block_type_slug = "federation-store"
    _description = "MinIO or another S3 server, or a folder, for a federation's inputs, outputs and logs."

    url: SecretStr = Field(title="Address", description="s3://KEY:SECRET@HOST/BUCKET, s3+http://... without TLS, or file:///PATH.")
    site_url: str = Field("", title="Address for sites", description="https://HOST:PORT as the sites see the store, where that differs.")

    def get_client(self) -> ObjectStore:
        """The store."""
        return open_store(self.url.get_secret_value(), site_url=self.site_url)


class FederationRecords(Block):
    """The records of executions, runs, attempts and events."""

    _block_type_name = "Federation Records"
    _block_type_slug = "federation-records"
    _description = "The SQL database (PostgreSQL or SQLite) with a federation's executions and accounts."

    url: SecretStr = Field(title="Address", description="postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or sqlite:///PATH.")

    def get_client(self) -> Records:
        """The records, their tables made if need be."""
        return Records.open(self.url.get_secret_value())
