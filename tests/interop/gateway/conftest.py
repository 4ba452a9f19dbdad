from pathlib import Path

import pytest

from tests.integration.gateway.gateway_certificates import CertificateBuilder
from tests.integration.gateway.running_gateway import Backend


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return Backend(CertificateBuilder(tmp_path), tmp_path / "telemetry.db")
