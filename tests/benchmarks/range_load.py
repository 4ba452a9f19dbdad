"""Ranged downloads over mutual TLS, as a process of its own: `python range_load.py PLAN.json` prints one JSON object.

The plan: {"host", "port", "ca", "seconds", "path", "length", "range_bytes", "clients": [{"certificate", "key"}]}. Each
client keeps one connection and asks for one range after the other of the same file, as a device does. The answer:
{"bytes", "seconds"}. Bounded: it stops after the plan's seconds, and at the first answer that is not what was asked.
"""

import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

BUFFER_BYTES = 256 * 1024


class LoadError(Exception):
    """The server did not answer with the range."""


def fetch(tls: ssl.SSLSocket, plan: dict[str, Any], buffer: memoryview, *, start: int) -> int:
    """Ask for one range and read it whole; return its bytes."""
    end = min(start + plan["range_bytes"], plan["length"])
    tls.sendall(
        f"GET {plan['path']} HTTP/1.1\r\nHost: {plan['host']}\r\nAccept-Encoding: identity\r\n"
        f"Range: bytes={start}-{end - 1}\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        read = tls.recv_into(buffer)
        if not read:
            raise LoadError("expected an answer, found a closed connection")
        head += bytes(buffer[:read])
    head, _, body = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 206"):
        raise LoadError(f"expected 206, found {head[:200]!r}")
    missing = end - start - len(body)
    while missing > 0:
        read = tls.recv_into(buffer)
        if not read:
            raise LoadError(f"expected {missing} bytes more, found a closed connection")
        missing -= read
    return int(end - start)


def run(plan: dict[str, Any], client: dict[str, str], totals: list[int], errors: list[Exception]) -> None:
    """Fetch ranges until the time is over."""
    context = ssl.create_default_context(cafile=plan["ca"])
    context.load_cert_chain(client["certificate"], client["key"])
    buffer, taken = memoryview(bytearray(BUFFER_BYTES)), 0
    deadline = time.perf_counter() + plan["seconds"]
    try:
        with (
            socket.create_connection((plan["host"], plan["port"]), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=plan["host"]) as tls,
        ):
            start = 0
            while time.perf_counter() < deadline:
                taken += fetch(tls, plan, buffer, start=start)
                start = (start + plan["range_bytes"]) if start + plan["range_bytes"] < plan["length"] else 0
    except (OSError, LoadError) as error:
        errors.append(error)
    totals.append(taken)


def main() -> None:
    """Run one plan and print what was counted."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    totals: list[int] = []
    errors: list[Exception] = []
    begin = time.perf_counter()
    threads = [threading.Thread(target=run, args=(plan, client, totals, errors)) for client in plan["clients"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    print(json.dumps({"bytes": sum(totals), "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
