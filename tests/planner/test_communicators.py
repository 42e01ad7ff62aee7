"""What NCCL takes: the communicators that are counted beside groups that spoke, and their sizes."""

import json
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import nvlink_rows
import pytest
from hypothesis import given
from problems import Case, cases, problem

from planner.communicators import RING_BYTES, Communicator, Speakers, nccl_bytes, speakers_of
from planner.grids import Grids
from planner.layout import Layout
from planner.placement import place
from planner.split import even_split
from planner.topology_files import load_topology
from planner.units import MIB

MESSAGES = {"batch_isend_irecv", "all_to_all_single"}  # what only sends messages
PAIRED = {"isend", "irecv"}  # messages without a batch

PAGE = Path(nvlink_rows.__file__).with_name("speaking_groups.jsonl")
RUNS = [json.loads(line) for line in PAGE.read_text(encoding="utf-8").splitlines()]


def layout_of(run: dict[str, Any]) -> Layout:
    sizes = run["layout"]
    split = even_split(8, sizes.get("pp", 1), sizes.get("vpp", 1))
    assert split is not None
    return Layout(**sizes, split=split)


@pytest.mark.parametrize("run", RUNS, ids=[json.dumps(run | {"ranks": 0}) for run in RUNS])
def test_the_groups_that_are_counted_are_those_that_spoke(run: dict[str, Any]) -> None:
    """In runs of the real packages on CPUs: by name, size and whether messages were sent."""
    layout = layout_of(run)
    for rank, spoken in enumerate(run["ranks"]):
        stage = rank * layout.pp // layout.world_size
        found = replace(
            nvlink_rows.speakers(layout),
            saves=run["saved"],
            biases_experts=run.get("model_type") == "glm4_moe",
        )
        counted = list(found.stage(stage, interleaved=layout.vpp > 1))
        made = {each.group: each for each in counted if not each.group.endswith("_pair")}

        assert {name: len(each["ranks"]) for name, each in spoken.items()} == {
            name: each.place.size for name, each in made.items()
        }
        for name, each in spoken.items():
            calls = set(each["calls"])
            assert bool(calls & MESSAGES) == (made[name].peers > 0), name
            heard = run["saved"] and name == "world" and layout.world_size > 1
            assert (made[name].sources > 0) == heard, name
            assert bool(calls - MESSAGES - PAIRED) == made[name].collective, name
        pairs = [each for each in spoken.values() if PAIRED & set(each["calls"])]
        assert len(pairs) == len(counted) - len(made)


def speakers(nodes: int, gpus: int, **sizes: int) -> Speakers:
    cluster = load_topology("h100-8x-ib", nodes, gpus)
    groups = place(cluster, Grids(world_size=nodes * gpus, **sizes))
    return Speakers(cluster=cluster, groups=groups, has_experts=True, copies_embedding=False)


def of_group(found: Speakers, name: str, stage: int = 0) -> Communicator:
    made = found.stage(stage, interleaved=False)
    return next(each for each in made if each.group == name)


def test_communicators_have_the_sizes_that_the_source_says() -> None:
    two = speakers(1, 2, ep=2)

    assert of_group(two, "tp").bytes == 388 * MIB  # one rank: 64 * 3 + 2 pages of 2 MiB
    assert of_group(two, "dp_cp").bytes == RING_BYTES == (196 + 24 * 12) * MIB
    assert of_group(two, "ep").bytes == (196 + 32 * 12) * MIB


def test_messages_to_a_further_peer_need_connections_on_every_channel_inside_nvlink() -> None:
    near = [of_group(speakers(1, 8, ep=ep), "ep").bytes for ep in (2, 4, 8)]

    assert near == [(196 + peers * 32 * 12) * MIB for peers in (1, 3, 7)]
    # beyond it two each to the peers of the own host, and buffers that all others share
    assert of_group(speakers(2, 8, ep=16), "ep").bytes == (100 + 7 * 2 * 12 + 64) * MIB


def test_the_first_rank_hears_of_all_others_when_they_save() -> None:
    found = speakers(1, 8, pp=2)
    first, last = of_group(found, "world"), of_group(found, "world", stage=1)

    assert (first.sources, last.sources) == (6, 0)  # one of the seven is a peer already
    assert first.bytes - last.bytes == 6 * 32 * 10 * MIB


@pytest.mark.parametrize(
    ("name", "stages", "mtp", "found"),
    [
        ("Qwen3-30B-A3B", 2, 0, set()),
        ("DeepSeek-V3", 1, 0, {"tp_dp_cp"}),
        ("GLM-4.5-Air", 2, 0, {"tp_dp_cp"}),
        ("DeepSeek-V3", 2, 1, {"tp_dp_cp", "embedding"}),
        ("DeepSeek-V3", 1, 1, {"tp_dp_cp"}),
        ("Qwen2.5-3B", 2, 0, {"embedding"}),
    ],
)
def test_some_models_speak_in_more_groups(
    name: str, stages: int, mtp: int, found: set[str]
) -> None:
    """Biases of experts follow loads of all ranks of a stage; a second embedding the first."""
    case = problem(name, gpus=8, mtp_num_layers=mtp)
    groups = place(case.cluster, Grids(world_size=8, pp=stages, tp=2))
    made = {each.group: each for each in speakers_of(case, groups).stage(0, interleaved=False)}

    assert made.keys() & {"tp_dp_cp", "embedding"} == found
    assert "tp_dp_cp" not in found or made["tp_dp_cp"].place.size == 8 // stages


@given(cases())
def test_every_stage_has_at_least_the_communicators_of_its_groups(case: Case) -> None:
    layout = case.layout
    grids = Grids(
        world_size=layout.world_size,
        **{name: getattr(layout, name) for name in ("tp", "cp", "pp", "ep", "etp")},
    )
    found = speakers_of(case.problem, place(case.problem.cluster, grids))
    sizes = nccl_bytes(found, interleaved=layout.vpp > 1)
    memory = case.batch.memory(layout.recompute)

    assert len(sizes) == layout.pp
    assert all(
        isclose(size, each.nccl, abs_tol=1) for size, each in zip(sizes, memory, strict=True)
    )
    for stage, size in enumerate(sizes):
        made = list(found.stage(stage, interleaved=layout.vpp > 1))
        assert size >= len(made) * 52 * MIB > 0
