import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.integration.gateway.gateway_certificates import CertificateBuilder
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on both event loops: their TLS transports differ."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateBuilder:
    return CertificateBuilder(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def backend(certificates: CertificateBuilder, tmp_path: Path) -> Backend:
    return Backend(certificates, tmp_path / "telemetry.db")


@pytest.fixture
async def running(backend: Backend) -> AsyncIterator[RunningGateway]:
    async with run_gateway(backend) as gateway:
        yield gateway
