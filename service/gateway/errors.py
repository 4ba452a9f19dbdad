"""Errors of the device gateway; the leaf names the broken rule.

Each carries the `RefusalReason` under which the connection is closed and audited.
"""

from typing import ClassVar

from service.application.messaging import MessagingError, RefusalReason
from service.domain.errors import InvalidError


class GatewayError(MessagingError):
    """Base of the gateway's errors; the connection that caused one is closed."""

    reason: ClassVar[RefusalReason] = RefusalReason.PROTOCOL_VIOLATION


class MalformedPacketError(GatewayError):
    """The bytes are no MQTT 3.1.1 control packet, or one larger than the limit."""

    reason = RefusalReason.MALFORMED_PACKET


class ProtocolViolationError(GatewayError):
    """A well-formed packet that must not be sent at this point."""

    reason = RefusalReason.PROTOCOL_VIOLATION


class UnsupportedProtocolError(GatewayError):
    """A CONNECT of another protocol level than 4 (MQTT 3.1.1)."""

    reason = RefusalReason.UNSUPPORTED_PROTOCOL


class UnsupportedQosError(GatewayError):
    """QoS 2, which the gateway does not offer."""

    reason = RefusalReason.UNSUPPORTED_QOS


class ClientIdMismatchError(GatewayError):
    """The MQTT client id is not the certificate's device id."""

    reason = RefusalReason.CLIENT_ID_MISMATCH


class ForeignTopicError(GatewayError):
    """A topic or filter that is not the device's own."""

    reason = RefusalReason.FOREIGN_TOPIC


class ConnectTimeoutError(GatewayError):
    """No CONNECT within the time allowed after the TLS handshake."""

    reason = RefusalReason.CONNECT_TIMEOUT


class CommandNameError(GatewayError, InvalidError):
    """A command's name does not fit into a topic."""
