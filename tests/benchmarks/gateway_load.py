"""Load on an MQTT server over mutual TLS, in a process of its own: bare sockets, epoll, no MQTT library.

Reads one JSON object on standard input; prints "begin" when the measured time begins, and one JSON object at its end:

    {"mode": "publish", "port", "root", "devices": [{"id", "certificate", "key"}, …], "inflight", "seconds"}
        → {"messages", "seconds"}: acknowledged messages after a warm-up of one second
    {"mode": "connect", …, "resume": bool, "threads"}
        → {"connects", "resumed", "seconds"}: TLS handshake, CONNECT, CONNACK, close
    {"mode": "subscribe", …} → prints "ready" and reads everything until it is killed
"""

import contextlib
import json
import select
import socket
import ssl
import sys
import threading
import time
from typing import Any

PAYLOAD = bytes(range(200))
PUBACK_BYTES = 4
WARM_UP_SECONDS = 1.0
READ_BYTES = 65_536

Settings = dict[str, Any]


def client_context(settings: Settings, device: dict[str, str]) -> ssl.SSLContext:
    """A TLS 1.3 context with the device's certificate; no host name check, to keep the client cheap."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(settings["root"])
    context.load_cert_chain(device["certificate"], device["key"])
    return context


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def field(data: bytes) -> bytes:
    """Length-prefix a field."""
    return len(data).to_bytes(2, "big") + data


def packet(first_byte: int, body: bytes) -> bytes:
    """Frame a packet of 128 to 16,383 bytes."""
    return bytes((first_byte, len(body) & 0x7F | 0x80, len(body) >> 7)) + body


def connect(
    settings: Settings, context: ssl.SSLContext, device_id: str, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """Finish the TLS handshake and CONNECT."""
    plain = socket.create_connection(("127.0.0.1", settings["port"]), timeout=60)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secure = context.wrap_socket(plain, session=session)
    secure.sendall(packet(0x10, field(b"MQTT") + b"\x04\x02\x00\x78" + field(device_id.encode())))
    answer = secure.recv(4)
    if answer != b"\x20\x02\x00\x00":
        raise RuntimeError(f"CONNACK: expected acceptance, found {answer.hex()}")
    return secure


class Device:
    """One publishing connection."""

    def __init__(self, settings: Settings, device: dict[str, str]) -> None:
        self.socket = connect(settings, client_context(settings, device), device["id"])
        self.socket.setblocking(False)  # noqa: FBT003  # the standard library's signature
        topic = field(f"tinyfleet/v1/{device['id']}/telemetry/bench".encode())
        self.head = packet(0x32, topic + bytes(2) + PAYLOAD)[: 3 + len(topic)]
        self.next_id = 0
        self.rest = b""

    def publish(self, count: int) -> None:
        """Send that many messages in one write."""
        frames = []
        for _ in range(count):
            self.next_id = self.next_id % 65_535 + 1
            frames.append(self.head + self.next_id.to_bytes(2, "big") + PAYLOAD)
        self.rest += b"".join(frames)
        with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self.socket.send(self.rest)
            self.rest = b""

    def acknowledged(self) -> int:
        """Read PUBACKs and return how many."""
        try:
            data = self.socket.recv(READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        if not data or len(data) % PUBACK_BYTES:
            raise RuntimeError(f"PUBACK: expected whole ones, found {len(data)} bytes")
        return len(data) // PUBACK_BYTES


def publish(settings: Settings) -> dict[str, float]:
    """Keep the given number of messages of each device in flight for the given time."""
    devices = [Device(settings, device) for device in settings["devices"]]
    by_fd = {device.socket.fileno(): device for device in devices}
    poll = select.epoll()
    for descriptor in by_fd:
        poll.register(descriptor, select.EPOLLIN)
    for device in devices:
        device.publish(settings["inflight"])
    drive(by_fd, poll, WARM_UP_SECONDS)
    say("begin")
    return {"messages": drive(by_fd, poll, settings["seconds"]), "seconds": settings["seconds"]}


def drive(by_fd: dict[int, Device], poll: select.epoll, seconds: float) -> int:
    """Replace every acknowledged message by a new one for a time; returns how many were acknowledged."""
    end = time.monotonic() + seconds
    messages = 0
    while time.monotonic() < end:
        for descriptor, _ in poll.poll(1.0, 256):
            count = by_fd[descriptor].acknowledged()
            if count:
                by_fd[descriptor].publish(count)
                messages += count
    return messages


def connects(settings: Settings) -> dict[str, float]:
    """Connect and close in threads for the given time."""
    end = time.monotonic() + settings["seconds"]
    counts: list[tuple[int, int]] = []

    def work(device: dict[str, str]) -> None:
        context, session, done, resumed = client_context(settings, device), None, 0, 0
        while time.monotonic() < end:
            secure = connect(settings, context, device["id"], session)
            done, resumed = done + 1, resumed + bool(secure.session_reused)
            session = secure.session if settings["resume"] else None
            secure.close()
        counts.append((done, resumed))

    threads = [threading.Thread(target=work, args=(device,)) for device in settings["devices"][: settings["threads"]]]
    say("begin")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "connects": sum(done for done, _ in counts),
        "resumed": sum(resumed for _, resumed in counts),
        "seconds": settings["seconds"],
    }


def subscribe(settings: Settings) -> None:
    """Subscribe to everything at QoS 0 and discard it."""
    device = settings["devices"][0]
    secure = connect(settings, client_context(settings, device), device["id"])
    secure.sendall(b"\x82\x10\x00\x01" + field(b"tinyfleet/#") + b"\x00")
    secure.recv(READ_BYTES)
    say("ready")
    secure.settimeout(None)
    while secure.recv(READ_BYTES):
        pass


if __name__ == "__main__":
    wanted = json.loads(sys.stdin.readline())
    match wanted["mode"]:
        case "publish":
            say(json.dumps(publish(wanted)))
        case "connect":
            say(json.dumps(connects(wanted)))
        case _:
            subscribe(wanted)
