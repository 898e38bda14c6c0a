"""Log lines of the server's tests go to stderr as a user sees them, and nowhere after the test."""

from collections.abc import Iterator

import pytest
import structlog

from sightline.server import logs


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    logs.to_stderr("info")
    yield
    structlog.reset_defaults()
