"""What planner.checkpoint_memory says of resuming, in the real Megatron-Core."""

import json
import os
import subprocess
import sys
from pathlib import Path

from stack.real_stack import HERE, python_path


def test_moments_are_there_twice_until_a_checkpoint_is_read_and_not_afterwards(
    tmp_path: Path,
) -> None:
    """Of both optimizers, each with two moments of one weight; nothing holds the first ones."""
    ran = subprocess.run(
        [sys.executable, str(HERE / "loading_on_cpu.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": python_path("0.18.1")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-8000:]
    found = json.loads(ran.stdout.splitlines()[-1])

    assert found == {"optimizers": 2, "made": 4, "in_use": 0, "at_the_end": 4, "afterwards": 0}
