"""config.json files spoiled in every way, through the command line and against mcore-bridge.

    python tests/inputs/fuzz_config.py --tries 20000

looks for a traceback, for a refusal that is not one line, and for a file that is accepted but means
something else to mcore-bridge. tests/inputs/test_model_config.py and tests/stack/test_meaning.py
run a few of the same.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from console import plan
from stack.real_stack import RealStack

from planner.architectures import ARCHITECTURES
from planner.errors import UsageError
from tests.inputs.configs import meaning, spoiled_configs


def ends_well(config: object, folder: Path) -> str:
    """Return how `plan models FILE` ends: "accepted", or the id of its refusal."""
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    ran = plan("models", path, "--json")
    answer = json.loads(ran.out)
    assert ran.err == "" and ran.status in (0, 2), ran
    if ran.status == 2:
        error = answer["error"]
        assert "\n" not in error["message"] + error["fix"], error
        assert len(error["message"]) < 500, error
        return str(error["id"])
    assert answer["total"] == sum(answer["parameters"].values()) > 0
    return "accepted"


def means_the_same(config: dict[str, Any], stack: RealStack) -> bool:
    """Return whether mcore-bridge was asked about an accepted file and agrees.

    It has nothing to say about types that it does not know and files that transformers refuses.
    """
    try:
        expected = meaning(config)
    except UsageError:
        return False
    if ARCHITECTURES[config["model_type"]].not_trained is not None:
        return False
    found = stack.call("meaning", config=config)
    assert found in (expected, None), (config, expected, found)
    return found is not None


def main() -> None:
    """Fuzz, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20_000)
    tries = parser.parse_args().tries
    ends: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, RealStack("0.16.1") as stack:

        @settings(
            max_examples=tries,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(spoiled_configs())
        def fuzz(config: object) -> None:
            end = ends_well(config, Path(folder))
            ends[end] += 1
            if end == "accepted" and isinstance(config, dict):
                ends["accepted, and mcore-bridge agrees"] += means_the_same(config, stack)

        fuzz()
    for end, count in ends.most_common():
        print(f"{count:7} {end}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
