"""Where RabbitMQ is and as whom to log in, and what its errors mean. No password ever stands in a message."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pika
from pika.adapters.utils import connection_workflow as workflow
from pika.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ChannelClosedByBroker,
    ChannelClosedByClient,
    ConnectionBlockedTimeout,
    IncompatibleProtocolError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from fdn_worker.errors import BrokerUnavailable, FdnError, SettingsError, Unroutable

#: Seconds between heartbeats; a silent broker is given up within three of them.
HEARTBEAT = 10
#: Seconds for one TCP connection, and for the whole way up to an open AMQP connection.
TCP_SECONDS, OPEN_SECONDS = 5.0, 10.0
#: Seconds that a broker in alarm may hold publishing back before the connection is given up.
BLOCKED_SECONDS = 10.0
_TLS_KEYS = ("cacertfile", "certfile", "keyfile")


@dataclass(frozen=True)
class Address:
    """`amqp[s]://USER:PASSWORD@HOST:PORT/VHOST`, with `?cacertfile=&certfile=&keyfile=` for TLS.

    With `certfile` the certificate is the login (EXTERNAL) and the address needs no user.
    """

    parameters: pika.ConnectionParameters = field(repr=False)
    #: The address without user and password, for messages.
    place: str
    #: Whom the broker knows us as; None where the certificate says it.
    user: str | None

    @classmethod
    def parse(cls, url: str, name: str) -> Address:
        """Read the address; SettingsError says what is wrong with it."""
        try:
            parts = urlsplit(url)
            secure = parts.scheme == "amqps"
            host, port = parts.hostname, parts.port or (5671 if secure else 5672)
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise SettingsError("the broker address cannot be read", remedy="use amqp[s]://USER:PASSWORD@HOST:PORT/VHOST") from error
        if not host:
            raise SettingsError("the broker address names no host", remedy="use amqp[s]://USER:PASSWORD@HOST:PORT/VHOST")
        place = f"{parts.scheme}://{host}:{port}{parts.path}"
        unknown = sorted(set(query) - set(_TLS_KEYS if secure else ()))
        if unknown:
            known = ", ".join(_TLS_KEYS) + " with amqps://"
            raise SettingsError(f"broker address {place} has the unknown option {unknown[0]!r}", remedy=f"known are {known}")
        by_certificate = "certfile" in query
        user = None if by_certificate else unquote(parts.username or "guest")
        login = pika.credentials.ExternalCredentials() if user is None else pika.PlainCredentials(user, unquote(parts.password or "guest"))
        parameters = pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=unquote(parts.path[1:]) or "/",
            credentials=login,
            heartbeat=HEARTBEAT,
            blocked_connection_timeout=BLOCKED_SECONDS,
            socket_timeout=TCP_SECONDS,
            stack_timeout=OPEN_SECONDS,
            client_properties={"connection_name": name} if name else None,
            ssl_options=pika.SSLOptions(_tls(query, place), host) if secure else None,
        )
        return cls(parameters, place, user)

    @property
    def who(self) -> str:
        """In words."""
        return "the certificate's user" if self.user is None else f"user {self.user!r}"

    def explain(self, error: BaseException) -> FdnError:
        """Our own error for one of pika's about the connection."""
        cause = _root(error)
        message, remedy = f"RabbitMQ at {self.place} ", "check that the broker runs and that its address and port are right"
        if isinstance(cause, FdnError):
            return cause
        if isinstance(cause, ProbableAuthenticationError | AuthenticationError):
            message += "refuses the client certificate" if self.user is None else f"refuses the login of user {self.user!r}"
            remedy = "check user and password, or the certificate"
        elif isinstance(cause, ProbableAccessDeniedError):
            said = re.search(r'NOT_ALLOWED - (.+?)"', str(cause))
            message += f"refuses {self.who} its virtual host{f': {said[1]}' if said else ''}"
            remedy = "check the path of the address, and the user's permissions and limits"
        elif isinstance(cause, ssl.SSLCertVerificationError):
            message += f"shows a certificate that is not trusted: {cause.verify_message}"
            remedy = "name the authority's certificate with ?cacertfile=, and the host as in the certificate"
        elif isinstance(cause, ssl.SSLError):
            message += f"fails in TLS: {cause.reason}"
            remedy = "check that the port speaks TLS, and the client certificate"
        elif isinstance(cause, socket.gaierror):
            message += "has an unknown host name"
            remedy = "check the host in the broker address"
        elif isinstance(cause, IncompatibleProtocolError) and self.parameters.ssl_options is not None:
            message += "closed the connection once TLS stood"
            remedy = "check the client certificate (?certfile=, ?keyfile=): the broker may want one, or does not trust this one"
        elif isinstance(cause, workflow.AMQPConnectorStackTimeout | IncompatibleProtocolError):
            message += "does not answer as RabbitMQ"
        elif isinstance(cause, ConnectionBlockedTimeout):
            message += f"held publishing back for {BLOCKED_SECONDS:.0f} s"
            remedy = "it is in a memory or disk alarm: free some"
        elif isinstance(cause, OSError):
            message += f"cannot be reached: {cause.strerror or cause}"
        else:
            message += f"closed the connection: {_text(cause)}"
        return BrokerUnavailable(message, remedy=remedy)

    def explain_channel(self, reason: BaseException, what: str) -> FdnError:
        """Our own error for a channel that closed while it did `what`."""
        if isinstance(reason, ChannelClosedByClient):
            return BrokerUnavailable(f"RabbitMQ at {self.place} ceased to {what}", remedy="check that the queue still stands")
        if not isinstance(reason, ChannelClosedByBroker):
            return self.explain(reason)
        message = f"RabbitMQ at {self.place} refused to {what}: {reason.reply_text}"
        if reason.reply_code == 404:
            return Unroutable(message, remedy="declare it first; a node is declared when it is enrolled")
        # A channel closes with the same code for a frame that does not fit, which is the fault of no message on it.
        if reason.reply_code == 406 and "inequivalent" in reason.reply_text:
            return SettingsError(message, remedy="what stands differs from what is asked for: delete it, or ask for the same")
        return BrokerUnavailable(message, remedy=f"check the permissions of {self.who}" if reason.reply_code == 403 else None)


def _tls(query: Mapping[str, str], place: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=query.get("cacertfile"))
        if "certfile" in query:
            context.load_cert_chain(query["certfile"], query.get("keyfile"))
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(f"{key} {query[key]}" for key in _TLS_KEYS if key in query)
        raise SettingsError(f"TLS files of broker {place} ({files}): {error.strerror or error}", remedy="check the paths") from error
    return context


def _root(error: Any) -> BaseException:
    """The cause inside pika's wrappings."""
    while True:
        if isinstance(error, workflow.AMQPConnectionWorkflowFailed):
            error = error.exceptions[-1]
        elif isinstance(error, workflow.AMQPConnectorPhaseErrorBase):
            error = error.exception
        elif isinstance(error, AMQPConnectionError) and error.args and isinstance(error.args[0], BaseException):
            error = error.args[0]
        else:
            cause: BaseException = error
            return cause


def _text(error: BaseException) -> str:
    return str(getattr(error, "reply_text", "") or error or type(error).__name__)
