"""One server for the tests that leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.serving import Server, serving


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def server(cache) -> Iterator[Server]:
    with serving(cache) as running:
        yield running
