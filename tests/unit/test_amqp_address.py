"""What a channel's end means for whoever used it."""

from __future__ import annotations

import pytest
from pika.exceptions import ChannelClosedByBroker, ChannelClosedByClient

from fdn_worker.brokers._amqp_address import Address
from fdn_worker.errors import BrokerUnavailable, SettingsError, Unroutable


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q' in vhost '/'"), Unroutable),
        (ChannelClosedByBroker(406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q'"), SettingsError),
        (ChannelClosedByBroker(406, "PRECONDITION_FAILED - unknown delivery tag 7"), BrokerUnavailable),
        (ChannelClosedByBroker(403, "ACCESS_REFUSED - access to queue 'q' refused"), BrokerUnavailable),
        (ChannelClosedByClient(0, "bye"), BrokerUnavailable),
    ],
)
def test_a_channel_that_closes(reason: Exception, kind: type[Exception]) -> None:
    """Only a declaration that differs is a matter of settings; what was amiss with one frame goes better the next time."""
    error = Address.parse("amqp://guest:s3cret@host/", "test").explain_channel(reason, "take message 1")
    assert type(error) is kind
    assert "take message 1" in str(error)
    assert "s3cret" not in str(error)
