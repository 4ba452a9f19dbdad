"""The two topic maps on one session core: native tinyfleet topics and Azure IoT Hub's.

A dialect belongs to one connection of one proven device. It turns the topic of a publish into a `Route`, says
which topic filters the device may hold, and names the topics on which the service speaks to the device.

Sources: DESIGN.md "The MQTT gateway" for native topics; Microsoft's "Communicate with IoT Hub using the MQTT
protocol" and azure-iot-device 2.14 for the IoT Hub dialect.

Not here: MQTT's own rules for topics (`service.gateway.codec`), and proof of the device id
(`service.gateway.admission`).
"""

import json
import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from protocol import topics
from protocol.identity import DeviceId
from service.application.messaging import MessageKind
from service.gateway.codec import Connect
from service.gateway.errors import ClientIdMismatchError, ForeignTopicError

IOTHUB_STREAM = "messages"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_SHOWN_CHARACTERS = 200  # of a refused topic, in messages


@dataclass(frozen=True, slots=True)
class Route:
    """Where a published message belongs.

    Attributes:
        kind: What it is.
        stream: Telemetry stream or event kind; empty for twin reports.
        properties: JSON object as text, or None without properties.
    """

    kind: MessageKind
    stream: str
    properties: str | None = None


class Dialect(Protocol):
    """A topic map for one device."""

    def route(self, topic: str) -> Route:
        """Map the topic of a publish.

        Raises:
            ForeignTopicError: Not one of the device's own topics.
        """

    def grants(self, topic_filter: str) -> bool:
        """Say whether the device may hold the subscription; False for an own one that nothing is sent on.

        Raises:
            ForeignTopicError: The filter reaches beyond the device's own topics.
        """

    @property
    def command_filter(self) -> str:
        """The filter that a device subscribes to for commands."""

    @property
    def desired_filter(self) -> str | None:
        """The filter for desired twin properties, None where the dialect has none."""

    def command_topic(self, name: str) -> str:
        """Return the topic on which a command is sent."""


def dialect_of(connect: Connect, device_id: DeviceId) -> Dialect:
    """Choose the dialect by the form of the user name.

    IoT Hub: `{hostname}/{device id}/?api-version=…`; native: none, or the device id.

    Raises:
        ClientIdMismatchError: Client id or user name names another than the proven device.
    """
    if connect.client_id != device_id:
        raise ClientIdMismatchError(
            f"client id: expected the certificate's device id {device_id[:16]}…, "
            f"found {connect.client_id[:_SHOWN_CHARACTERS]!r}"
        )
    if connect.username in (None, "", device_id):
        return NativeDialect(device_id)
    _, _, rest = connect.username.partition("/")
    named, _, query = rest.partition("/")
    if named != device_id or not query.removeprefix("?").startswith("api-version="):
        raise ClientIdMismatchError(
            f"user name: expected none, the device id or {{hostname}}/{{device id}}/?api-version=…, "
            f"found {connect.username[:_SHOWN_CHARACTERS]!r}"
        )
    return IotHubDialect(device_id)


@dataclass(frozen=True, slots=True)
class NativeDialect:
    """`tinyfleet/v1/{device id}/…`: telemetry/{stream}, events/{kind}, twin/reported; commands, twin/desired."""

    device_id: DeviceId

    @property
    def _own(self) -> str:
        return f"{topics.PREFIX}/{self.device_id}/"

    def route(self, topic: str) -> Route:
        """See `Dialect.route`."""
        own = self._own
        if topic.startswith(own):
            match topic[len(own) :].split("/"):
                case ["telemetry", stream] if _NAME.match(stream):
                    return Route(MessageKind.TELEMETRY, stream)
                case ["events", kind] if _NAME.match(kind):
                    return Route(MessageKind.EVENT, kind)
                case ["twin", "reported"]:
                    return Route(MessageKind.TWIN_REPORTED, "")
        raise _foreign(topic, f"{own}telemetry/{{stream}}, events/{{kind}} or twin/reported")

    def grants(self, topic_filter: str) -> bool:
        """See `Dialect.grants`."""
        if not topic_filter.startswith(self._own):
            raise _foreign(topic_filter, f"{self._own}commands/# or twin/desired")
        return topic_filter in (self.command_filter, self.desired_filter)

    @property
    def command_filter(self) -> str:
        """See `Dialect.command_filter`."""
        return topics.command_filter(self.device_id)

    @property
    def desired_filter(self) -> str:
        """See `Dialect.desired_filter`."""
        return f"{self._own}twin/desired"

    def command_topic(self, name: str) -> str:
        """See `Dialect.command_topic`."""
        return topics.command_topic(self.device_id, name)


@dataclass(frozen=True, slots=True)
class IotHubDialect:
    """`devices/{device id}/messages/…`: events/{bag} up, devicebound/{bag} down."""

    device_id: DeviceId

    def route(self, topic: str) -> Route:
        """See `Dialect.route`; the bag is cut off by prefix, because other clients leave `/` raw in it."""
        own = f"devices/{self.device_id}/messages/events"
        if topic == own or topic.startswith(own + "/"):
            return Route(MessageKind.TELEMETRY, IOTHUB_STREAM, _bag_to_json(topic[len(own) + 1 :]))
        raise _foreign(topic, own + "/{properties}")

    def grants(self, topic_filter: str) -> bool:
        """See `Dialect.grants`; `$iothub/…` filters are own but nothing is sent on them yet."""
        if not topic_filter.startswith((f"devices/{self.device_id}/", "$iothub/")):
            raise _foreign(topic_filter, self.command_filter)
        return topic_filter == self.command_filter

    @property
    def command_filter(self) -> str:
        """See `Dialect.command_filter`."""
        return f"devices/{self.device_id}/messages/devicebound/#"

    @property
    def desired_filter(self) -> None:
        """See `Dialect.desired_filter`."""
        return

    def command_topic(self, name: str) -> str:
        """See `Dialect.command_topic`; the command's name travels as the property `name`."""
        return f"devices/{self.device_id}/messages/devicebound/name={name}"


def _bag_to_json(bag: str) -> str | None:
    """Decode a property bag (`k=v&…`, percent encoded, `+` is literal); `k` alone has the value None."""
    if not bag:
        return None
    properties: dict[str, str | None] = {}
    for item in bag.strip("/").split("&"):
        key, equals, value = item.partition("=")
        properties[unquote(key)] = unquote(value) if equals else None
    return json.dumps(properties, ensure_ascii=False)


def _foreign(topic: str, expected: str) -> ForeignTopicError:
    return ForeignTopicError(f"topic: expected {expected}, found {topic[:_SHOWN_CHARACTERS]!r}")
