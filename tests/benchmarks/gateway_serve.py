"""The gateway alone in a process, for benchmarks and the kill test: real TLS, real SQLite log, uvloop.

Reads a JSON object on standard input: {"folder": where the builder wrote, "certificate", "key", "issuer", "telemetry"}
(paths), prints the port on one line, and runs until SIGTERM. Subscriptions and commands are kept in memory.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop
from cryptography import x509

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.gateway.admission import LdevidAdmission
from service.gateway.host import GatewayPorts
from service.gateway.limits import Limits
from service.gateway.server import Gateway
from service.gateway.tls import server_context
from tests.integration.gateway.gateway_fakes import (
    DeviceRegister,
    MemoryCommands,
    MemorySubscriptions,
    OffsetClock,
    RecordedEvents,
)


class SilentEvents(RecordedEvents):
    """Keeps no batches: a benchmark commits thousands."""

    def committed(self, *_: object, **__: object) -> None:
        return


async def serve(settings: dict[str, str]) -> None:
    """Run until SIGTERM, then stop gracefully."""
    issuers = [x509.load_pem_x509_certificate(Path(settings["issuer"]).read_bytes())]
    telemetry = await SqliteTelemetryStore.open(Path(settings["telemetry"]))
    clock = OffsetClock()
    ports = GatewayPorts(
        admission=LdevidAdmission(issuers, standing=DeviceRegister(), clock=clock),
        telemetry=telemetry,
        subscriptions=MemorySubscriptions(),
        commands=MemoryCommands(),
        events=SilentEvents(),
        clock=clock,
    )
    gateway = Gateway(ports, limits=Limits(max_connections_per_source=20_000))
    context = server_context(Path(settings["certificate"]), Path(settings["key"]), issuers=issuers)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    _, port = await gateway.start("127.0.0.1", 0, context)
    print(port, flush=True)
    await stop.wait()
    await gateway.stop()
    await telemetry.close()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.stdin.readline())))
