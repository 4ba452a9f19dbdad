"""MQTT topics of the native dialect: tinyfleet/v1/{device id}/{class}/{rest}."""

from protocol.identity import DeviceId

PREFIX = "tinyfleet/v1"


def telemetry_topic(device_id: DeviceId, stream: str) -> str:
    """Where a device publishes telemetry of one stream, e.g. `inference`."""
    return f"{PREFIX}/{device_id}/telemetry/{stream}"


def event_topic(device_id: DeviceId, kind: str) -> str:
    """Where a device publishes an event of one kind, e.g. `security`."""
    return f"{PREFIX}/{device_id}/events/{kind}"


def command_filter(device_id: DeviceId) -> str:
    """What a device subscribes to for commands."""
    return f"{PREFIX}/{device_id}/commands/#"


def command_topic(device_id: DeviceId, name: str) -> str:
    """Where the service publishes one command, e.g. `check-update`."""
    return f"{PREFIX}/{device_id}/commands/{name}"
