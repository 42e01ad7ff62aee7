"""What several modules of tests of launching start from."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hosts import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes on this machine; whatever a test leaves running is killed."""
    made = Cluster(tmp_path)
    yield made
    for pid in made.left():
        os.kill(int(pid), signal.SIGKILL)
