"""What holds for every test."""

import pytest
import structlog


@pytest.fixture(scope="session", autouse=True)
def logging_of_the_service() -> None:
    """Send the service's log through the standard library, as `serve` does.

    By default structlog prints, and a service in this process would write among what commands print.
    """
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())
