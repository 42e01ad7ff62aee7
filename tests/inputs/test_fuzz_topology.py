"""Whatever stands in a topology file or in a node's outputs: an answer, or one mistake told."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from tests.inputs.fuzz_topology import check_detect, check_topology, outputs, topologies


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=400)
@given(content=topologies())
def test_any_topology_is_planned_with_finite_numbers_or_refused(folder: Path, content: Any) -> None:
    check_topology(folder / "fuzzed.yaml", content)


@settings(max_examples=300)
@given(texts=outputs())
def test_any_output_of_a_node_is_drafted_or_refused(folder: Path, texts: dict[str, str]) -> None:
    check_detect(folder, texts)
