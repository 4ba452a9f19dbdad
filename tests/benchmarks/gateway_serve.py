"""The gateway alone in a process, for benchmarks and the kill test: real TLS, real SQLite files, uvloop.

Reads a JSON object on standard input: {"certificate", "key", "issuer", "telemetry", "control"} (paths), prints the port
on one line, and runs until SIGTERM. Every device is in good standing; subscriptions and commands are in SQLite.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop
from cryptography import x509

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.adapters.clock import SystemClock
from service.adapters.database.engine import Database, database_url
from service.adapters.database.gateway_stores import SqlCommandQueue, SqlSubscriptions
from service.adapters.database.migration import migrate
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.gateway.admission import LdevidAdmission
from service.gateway.host import GatewayPorts
from service.gateway.limits import Limits
from service.gateway.remembered import RememberedSubscriptions
from service.gateway.server import Gateway
from service.gateway.tls import server_context
from tests.integration.gateway.gateway_fakes import DeviceRegister


class Silent:
    """An `EventSink` that hears nothing."""

    def connected(self, *_: object, **__: object) -> None:
        """Ignore it."""

    def disconnected(self, *_: object, **__: object) -> None:
        """Ignore it."""

    def committed(self, *_: object, **__: object) -> None:
        """Ignore it."""

    def refused(self, *_: object, **__: object) -> None:
        """Ignore it."""


async def serve(settings: dict[str, str], issuers: list[x509.Certificate]) -> None:
    """Run until SIGTERM, then stop gracefully."""
    telemetry = await SqliteTelemetryStore.open(Path(settings["telemetry"]))
    database = Database(database_url(f"sqlite:///{settings['control']}"))
    await migrate(database)
    clock = SystemClock()
    ports = GatewayPorts(
        admission=LdevidAdmission(issuers, standing=DeviceRegister(), clock=clock),
        telemetry=telemetry,
        subscriptions=RememberedSubscriptions(SqlSubscriptions(database)),
        commands=SqlCommandQueue(database),
        events=Silent(),
        clock=clock,
    )
    gateway = Gateway(ports, limits=Limits(max_connections_per_source=20_000))
    context = server_context(Path(settings["certificate"]), Path(settings["key"]), issuers=issuers)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    _, port = await gateway.start("127.0.0.1", 0, context)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await stop.wait()
    await gateway.stop()
    await database.close()
    await telemetry.close()


def main() -> None:
    """Read the settings and serve."""
    settings = json.loads(sys.stdin.readline())
    issuer = x509.load_pem_x509_certificate(Path(settings["issuer"]).read_bytes())
    uvloop.run(serve(settings, [issuer]))


if __name__ == "__main__":
    main()
