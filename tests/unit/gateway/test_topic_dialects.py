"""The two topic maps: what a device's own topics are, and what each means."""

import json

import pytest

from protocol.identity import DeviceId
from service.application.messaging import MessageKind
from service.gateway.codec import Connect
from service.gateway.dialects import (
    IOTHUB_STREAM,
    IotHubDialect,
    NativeDialect,
    Route,
    dialect_of,
)
from service.gateway.errors import ClientIdMismatchError, ForeignTopicError

OWN = DeviceId("a" * 128)
OTHER = DeviceId("b" * 128)
NATIVE = NativeDialect(OWN)
IOTHUB = IotHubDialect(OWN)


def connect(username: str | None, client_id: str = OWN) -> Connect:
    return Connect(client_id, username, 60, clean_session=False, will=None)


@pytest.mark.parametrize("username", [None, "", OWN])
def test_plain_user_name_is_native(username: str | None) -> None:
    """None, empty, or the device id itself."""
    assert dialect_of(connect(username), OWN) == NATIVE


@pytest.mark.parametrize(
    "username",
    [
        f"hub.example/{OWN}/?api-version=2019-10-01&DeviceClientType=azure-iot-device%2F2.14.0",
        f"hub.example/{OWN}/?api-version=2020-09-30&DeviceClientType=x&model-id=dtmi%3Acom%3Bx",
        f"hub.example/{OWN}/api-version=2016-11-14",
    ],
)
def test_iothub_user_names_choose_its_dialect(username: str) -> None:
    """As the SDK writes them, with and without a model, and as old clients do."""
    assert dialect_of(connect(username), OWN) == IOTHUB


@pytest.mark.parametrize(
    "username",
    ["someone", f"hub/{OTHER}/?api-version=2019-10-01", f"hub/{OWN}/module/?api-version=1", f"hub/{OWN}"],
)
def test_other_user_names_are_refused(username: str) -> None:
    """A person, another device, a module, half a name."""
    with pytest.raises(ClientIdMismatchError, match="user name"):
        dialect_of(connect(username), OWN)


def test_other_client_id_is_refused() -> None:
    """Also when the user name is right."""
    with pytest.raises(ClientIdMismatchError, match="client id"):
        dialect_of(connect(None, client_id=OTHER), OWN)


@pytest.mark.parametrize(
    ("rest", "route"),
    [
        ("telemetry/inference", Route(MessageKind.TELEMETRY, "inference")),
        ("events/boot.failed", Route(MessageKind.EVENT, "boot.failed")),
        ("twin/reported", Route(MessageKind.TWIN_REPORTED, "")),
    ],
)
def test_native_topics_are_mapped(rest: str, route: Route) -> None:
    """What a device may publish."""
    assert NATIVE.route(f"tinyfleet/v1/{OWN}/{rest}") == route


@pytest.mark.parametrize(
    "topic",
    [
        f"tinyfleet/v1/{OTHER}/telemetry/s",
        f"tinyfleet/v1/{OWN}x/telemetry/s",
        f"tinyfleet/v2/{OWN}/telemetry/s",
        f"tinyfleet/v1/{OWN}/telemetry",
        f"tinyfleet/v1/{OWN}/telemetry/",
        f"tinyfleet/v1/{OWN}/telemetry/a/b",
        f"tinyfleet/v1/{OWN}/telemetry/{'x' * 65}",
        f"tinyfleet/v1/{OWN}/telemetry/s\n",
        f"tinyfleet/v1/{OWN}/commands/c",
        f"tinyfleet/v1/{OWN}/twin/desired",
        f"devices/{OWN}/messages/events/",
        "$SYS/broker",
    ],
)
def test_native_device_publishes_to_nothing_else(topic: str) -> None:
    """Others' topics, the service's topics, names that are none."""
    with pytest.raises(ForeignTopicError, match="topic: expected"):
        NATIVE.route(topic)


def test_native_filters() -> None:
    """Commands and desired twin are granted, other own ones not, everything else is foreign."""
    assert NATIVE.grants(f"tinyfleet/v1/{OWN}/commands/#")
    assert NATIVE.grants(f"tinyfleet/v1/{OWN}/twin/desired")
    assert not NATIVE.grants(f"tinyfleet/v1/{OWN}/telemetry/#")
    for topic_filter in ("#", "+/+/+/#", "tinyfleet/v1/+/commands/#", f"tinyfleet/v1/{OTHER}/commands/#"):
        with pytest.raises(ForeignTopicError, match="topic: expected"):
            NATIVE.grants(topic_filter)


@pytest.mark.parametrize(
    ("bag", "properties"),
    [
        ("", None),
        ("/", None),
        ("/%24.mid=1&%24.ct=application%2Fjson", {"$.mid": "1", "$.ct": "application/json"}),
        ("/$.ct=application/json&plus=a+b", {"$.ct": "application/json", "plus": "a+b"}),
        ("/a&b=&c=%C3%A4", {"a": None, "b": "", "c": "ä"}),
        ("/bad=%ff", {"bad": "\ufffd"}),
    ],
)
def test_iothub_property_bags_are_decoded(bag: str, properties: dict[str, str | None] | None) -> None:
    """Encoded by the SDK or left raw by others; `+` is itself."""
    route = IOTHUB.route(f"devices/{OWN}/messages/events{bag}")
    assert (route.kind, route.stream) == (MessageKind.TELEMETRY, IOTHUB_STREAM)
    assert (json.loads(route.properties) if route.properties else None) == properties


@pytest.mark.parametrize(
    "topic",
    [
        f"devices/{OTHER}/messages/events/",
        f"devices/{OWN}/messages/eventsx",
        f"devices/{OWN}/modules/m/messages/events/",
        "$iothub/twin/GET/?$rid=1",
        f"tinyfleet/v1/{OWN}/telemetry/s",
    ],
)
def test_iothub_device_publishes_to_nothing_else(topic: str) -> None:
    """Other devices, modules, twin (not yet there), native topics."""
    with pytest.raises(ForeignTopicError, match="topic: expected"):
        IOTHUB.route(topic)


def test_iothub_filters() -> None:
    """devicebound is granted; the SDK's other filters are its own but answered with failure."""
    assert IOTHUB.grants(f"devices/{OWN}/messages/devicebound/#")
    assert not IOTHUB.grants("$iothub/methods/POST/#")
    assert not IOTHUB.grants(f"devices/{OWN}/modules/m/inputs/#")
    with pytest.raises(ForeignTopicError, match="topic: expected"):
        IOTHUB.grants(f"devices/{OTHER}/messages/devicebound/#")


def test_commands_go_to_what_the_filter_matches() -> None:
    """The command topic lies under the command filter in both dialects."""
    for dialect in (NATIVE, IOTHUB):
        assert dialect.command_topic("poll").startswith(dialect.command_filter.removesuffix("#"))
