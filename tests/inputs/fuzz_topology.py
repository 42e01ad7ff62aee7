"""Topology files spoiled in every way, outputs of nodes cut and mixed: through the command line.

    python tests/inputs/fuzz_topology.py --tries 20000

runs so many of each; test_fuzz_topology.py runs a few.
"""

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from console import Ran, plan

from planner.topology_files import TOPOLOGIES_FOLDER, known_topologies
from planner.topology_schema import merged

NODES = Path(__file__).parent / "nodes"
FLAGS = {
    "--nvidia-smi-topo": "*.topo.txt",
    "--nvidia-smi": "*.smi.txt",
    "--ibdev2netdev": "*.ibdev.txt",
    "--nccl-topo": "*.nccl.xml",
}


def _whole(name: str) -> Any:
    content = yaml.safe_load((TOPOLOGIES_FOLDER / f"{name}.yaml").read_text())
    base = content.pop("like", None)
    return merged(_whole(base), content) if base else content


SHORT = [yaml.safe_load(path.read_text()) for path in sorted(TOPOLOGIES_FOLDER.glob("*.yaml"))]
WHOLE = [_whole(name) for name in known_topologies()]

WHOLE_NUMBERS = [0, 1, 2, 3, 5, 7, 8, 64, 72, 4096, 4097, -1, -8, 2**31, 2**63, 10**30]
FLOATS = [0.0, 0.5, 1e-300, -1e9, 1e9, 1e10, 1e308, math.inf, -math.inf, math.nan]
numbers = st.sampled_from([*WHOLE_NUMBERS, *FLOATS, True, False])
nonsense = st.recursive(
    st.none() | numbers | st.text(max_size=6) | st.sampled_from(["8", "h100", "[]", "\x1b[31m"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
sourced = st.fixed_dictionaries(
    {"value": numbers | st.floats(), "source": st.sampled_from(["x", "", "\n", 5])},
    optional={"assumed": st.sampled_from([True, False, None, "yes"])},
)
EXTRAS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "": {
        "like": st.sampled_from([*known_topologies(), "", "x", "../h100-8x-ib", None, 5]),
        "nvlink": st.none() | st.fixed_dictionaries({"domain_size": numbers}),
        "pcie": st.none() | st.builds(lambda: _whole("h100-nvl-8x")["pcie"]) | nonsense,
        "gpu": st.sampled_from(["H100-SXM5-80GB", "gb200", "MI300X", "910B", "", 5, None]),
        "gpus_per_node": numbers,
    },
    "nvlink": {"domain_size": numbers},
    "network": {
        "nodes_per_leaf": numbers,
        "oversubscription": sourced,
        "nics": st.lists(
            st.fixed_dictionaries({"count": numbers, "gbits_per_second_per_nic": sourced}),
            max_size=4,
        ),
        "nics_per_node": numbers | st.none(),
    },
}
in_range = st.floats(min_value=0.001, max_value=1e9)
VALUES = st.one_of(in_range, in_range, in_range, numbers, st.floats())


@st.composite
def topologies(draw: st.DrawFn) -> Any:
    """A topology that comes with the planner, with one to four places spoiled."""
    content = copy.deepcopy(draw(st.sampled_from([SHORT, WHOLE]).flatmap(st.sampled_from)))
    for _ in range(draw(st.integers(1, 3))):
        place, name = content, ""
        while True:
            inner = [key for key, value in place.items() if isinstance(value, dict) and value]
            if not inner or draw(st.integers(0, 2)) == 0:
                break
            name = draw(st.sampled_from(inner))
            place = place[name]
        extras = EXTRAS.get(name, {})
        key = draw(st.sampled_from([*place, *extras] or ["unknown"]))
        match draw(st.sampled_from([*["set"] * 6, "remove", "replace", "wrap", "rename"])):
            case "set":
                place[key] = draw(extras.get(key, VALUES if name else sourced | VALUES))
            case "remove":
                place.pop(key, None)
            case "replace":
                place[key] = draw(nonsense)
            case "wrap":
                place[key] = draw(st.sampled_from([[place.get(key)], {key: place.get(key)}]))
            case _:
                place[draw(st.text(max_size=8))] = place.pop(key, None)
    return content


@st.composite
def outputs(draw: st.DrawFn) -> dict[str, str]:
    """Outputs of nodes by the flag that reads them: cut, spliced, with lines lost or doubled."""
    flags = draw(st.lists(st.sampled_from(sorted(FLAGS)), min_size=1, max_size=3, unique=True))
    texts = {}
    for flag in flags:
        pattern = draw(st.sampled_from([FLAGS[flag]] * 5 + ["*"]))  # now and then another's output
        text = draw(st.sampled_from(sorted(NODES.glob(pattern)))).read_text()
        for _ in range(draw(st.integers(0, 2))):
            text = _spoiled(draw, text)
        texts[flag] = text
    return texts


def _spoiled(draw: st.DrawFn, text: str) -> str:
    start = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(["cut", "splice", "lines", "digits"])):
        case "cut":
            return text[:start]
        case "splice":
            new = draw(st.text("\0\t\n <>/=\"'GPUNICX18,.-()\x85é", max_size=8))
            return text[:start] + new + text[start + draw(st.integers(0, 30)) :]
        case "lines":
            lines = text.split("\n")
            at = draw(st.integers(0, len(lines) - 1))
            return "\n".join(
                lines[:at] + lines[at : at + 1] * draw(st.integers(0, 3)) + lines[at + 1 :]
            )
        case _:
            old, new = (
                draw(st.sampled_from("0123456789")),
                draw(st.sampled_from(["0", "9" * 9, ""])),
            )
            return text[:start] + text[start:].replace(old, new, draw(st.integers(1, 5)))


def told(ran: Ran) -> None:
    """Fail unless a refusal is one object that names its mistake."""
    assert ran.status == 2 and ran.err == "", ran
    assert set(ran.answer) == {"format_version", "error"}
    assert len(ran.answer["error"]["message"]) < 1000


def finite(value: Any, place: str = "") -> None:
    """Fail unless every number in a cluster's JSON is finite and positive."""
    if isinstance(value, dict):
        for key, inner in value.items():
            finite(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for inner in value:
            finite(inner, place)
    elif isinstance(value, int | float) and not place.endswith("compute_capability"):
        assert math.isfinite(value) and value > 0, place


def check_topology(path: Path, content: Any) -> str:
    """Check a file and plan on it; what came of it. Anything but an answer or a refusal fails."""
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    ran = plan("topology", "check", path, "--json")
    if ran.status:
        told(ran)
        return str(ran.answer["error"]["id"])
    topology = ran.answer["topology"]
    finite(topology)
    gpus = topology["gpus_per_node"] * 2
    words = ("--gpus", gpus, "--nodes", 2, "--model", "Qwen2.5-7B", "--topology", path, "--json")
    ran = plan("check", *words, "--global-batch-size", gpus, "--placement", "any")
    assert ran.status == 0 and ran.err == "", ran
    finite(ran.answer["inputs"]["cluster"])
    seconds = ran.answer["plan"]["step_seconds"]
    assert seconds is None or math.isfinite(seconds["total"])
    return "accepted"


def check_detect(folder: Path, texts: dict[str, str]) -> str:
    """Draft from outputs; what came of it. A draft passes `plan topology check`."""
    words: list[object] = []
    for number, (flag, text) in enumerate(texts.items()):
        path = folder / f"{number}.txt"
        path.write_text(text, encoding="utf-8")
        words += [flag, path]
    ran = plan("topology", "detect", *words, "--json")
    if ran.status:
        told(ran)
        return str(ran.answer["error"]["id"])
    drafted = folder / "draft.yaml"
    drafted.write_text(ran.answer["topology"], encoding="utf-8")
    ran = plan("topology", "check", drafted, "--json")
    assert ran.status == 0, ran
    finite(ran.answer["topology"])
    return "accepted"


def main() -> None:
    """Run so many tries of each, or of one, and print what came of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=20000)
    parser.add_argument("--only", choices=("topologies", "outputs"))
    given_words = parser.parse_args()
    tries, only = given_words.tries, given_words.only
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only != "outputs":
            path = folder / "t.yaml"
            _run("topologies", tries, topologies(), lambda each: check_topology(path, each))
        if only != "topologies":
            _run("outputs of nodes", tries, outputs(), lambda each: check_detect(folder, each))


def _run(
    what: str, tries: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], str]
) -> None:
    came: Counter[str] = Counter()

    @settings(
        max_examples=tries,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(each: Any) -> None:
        came[check(each)] += 1

    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    print(f"{sum(came.values())} {what} in {seconds:.0f} s: {json.dumps(came)}", flush=True)


if __name__ == "__main__":
    main()
