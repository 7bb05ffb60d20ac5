"""A connection to RabbitMQ and the one thread that it lives on: pika is touched on that thread alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any, TypeVar

import pika
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.connection import Connection
from pika.exceptions import AMQPError

from fdn_worker.brokers._amqp_address import Address
from fdn_worker.errors import BrokerUnavailable, FdnError

log = logging.getLogger(__name__)

#: Seconds that closing may take before the connection is just dropped (a broker object has two).
CLOSE_SECONDS = 0.7
#: Seconds in which the broker must have answered, connecting included.
ANSWER_SECONDS = 15.0

Use = Callable[[pika.SelectConnection], None]
Failed = Callable[[FdnError], None]
#: What it does, in words, and how: it sends one method on the channel, whose answer goes to the callback.
Step = tuple[str, Callable[[Channel, Callable[[Any], None]], None]]
T = TypeVar("T")


class Link:
    """Opened when it is first used, and again when it is used after a loss."""

    def __init__(self, address: Address, role: str) -> None:
        self.address = address
        self._role = role
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._loop: IOLoop | None = None
        # From here on the thread's own.
        self._connection: pika.SelectConnection | None = None
        self._connecting = False
        self._waiting: list[tuple[Use, Failed]] = []

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def run(self, function: Callable[[], None], after: float = 0.0) -> None:
        """Have the thread call `function` at once, or `after` seconds. From any thread; BrokerUnavailable when closed."""
        with self._lock:
            if self._closed:
                raise BrokerUnavailable(f"the connection to {self.address.place} was closed on this side")
            loop = self._loop or self._start()
            soon: Callable[[], Any] = partial(loop.call_later, after, function) if after else function
            loop.add_callback_threadsafe(soon)

    def use(self, use: Use, failed: Failed) -> None:
        """On the thread: call `use` with an open connection, or `failed` when there can be none."""
        if self._connection is not None and self._connection.is_open:
            use(self._connection)
            return
        self._waiting.append((use, failed))
        self._connect()

    def call(self, *steps: Step) -> list[Any]:
        """Take the steps in order on a channel of their own; the broker's answer to each. Errors name the step."""
        if not steps:
            return []
        done: Future[list[Any]] = Future()
        answers: list[Any] = []

        def start(connection: pika.SelectConnection) -> None:
            connection.channel(on_open_callback=opened).add_on_close_callback(closed)

        def opened(channel: Channel) -> None:
            def answered(frame: Any) -> None:
                answers.append(frame.method)
                if len(answers) == len(steps):
                    done.set_result(answers)
                    channel.close()

            for _what, send in steps:
                send(channel, answered)

        def closed(_channel: Channel, reason: Exception) -> None:
            if not done.done():
                done.set_exception(self.address.explain_channel(reason, steps[len(answers)][0]))

        self.run(lambda: self.use(start, done.set_exception))
        return self.wait(done, steps[0][0])

    def wait(self, done: Future[T], what: str) -> T:
        """The result, or BrokerUnavailable when the broker has not answered in time."""
        try:
            return done.result(ANSWER_SECONDS)
        except FutureTimeout as error:
            raise BrokerUnavailable(
                f"RabbitMQ at {self.address.place} did not {what} within {ANSWER_SECONDS:.0f} s", remedy="look at its alarms and its load"
            ) from error

    def close(self) -> None:
        """End connection and thread, within CLOSE_SECONDS even when the broker is dead. Idempotent."""
        with self._lock:
            if self._closed or self._thread is None or self._loop is None:
                self._closed = True
                return
            self._closed = True
            self._loop.add_callback_threadsafe(self._leave)
        if self._thread is not threading.current_thread():
            self._thread.join(1.5 * CLOSE_SECONDS)

    def _start(self) -> IOLoop:
        # What goes wrong is raised or logged here as one line; pika would log it as well, with a traceback.
        pika_log = logging.getLogger("pika")
        if pika_log.level == logging.NOTSET:
            pika_log.setLevel(logging.CRITICAL)
        self._loop = IOLoop()
        self._thread = threading.Thread(target=self._live, args=(self._loop,), name=f"amqp-{self._role}", daemon=True)
        self._thread.start()
        return self._loop

    def _live(self, loop: IOLoop) -> None:
        while True:
            try:
                loop.start()
                break
            except AMQPError as error:  # the broker sent what pika cannot read, or closed while we wrote
                log.warning("%s: %r", self.address.place, error, extra={"action": "broker"})
                if self._connection is not None and self._connection.is_open:
                    self._connection.close()
        loop.close()

    def _connect(self) -> None:
        if self._connection is None and not self._connecting:
            self._connecting = True
            # Not through the constructor: a connection made there fails an assertion when its time to open is up.
            pika.SelectConnection.create_connection([self.address.parameters], self._done, custom_ioloop=self._loop)

    def _done(self, result: Connection | BaseException) -> None:
        self._connecting = False
        if isinstance(result, pika.SelectConnection):
            result.add_on_close_callback(self._lost)
            self._connection = result
            waiting, self._waiting = self._waiting, []
            for use, _failed in waiting:
                use(result)
        else:
            assert isinstance(result, BaseException)
            self._fail(self.address.explain(result))

    def _lost(self, _connection: Connection, _reason: BaseException) -> None:
        """Whoever had a channel was told by it; whoever came while it closed gets the next connection."""
        self._connection = None
        if self._closed and self._loop is not None:
            self._loop.stop()
        elif self._waiting:
            self._connect()

    def _fail(self, error: FdnError) -> None:
        waiting, self._waiting = self._waiting, []
        for _use, failed in waiting:
            failed(error)

    def _leave(self) -> None:
        assert self._loop is not None
        self._fail(BrokerUnavailable(f"the connection to {self.address.place} was closed on this side"))
        if self._connection is None:
            self._loop.stop()  # an attempt is just dropped: pika fails an assertion when it is aborted in mid-handshake
            return
        self._loop.call_later(CLOSE_SECONDS, self._loop.stop)
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()
