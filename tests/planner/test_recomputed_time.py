"""What recomputing modules adds to a layer, what the host takes for it, and what is said beside."""

from dataclasses import replace

import again
import pytest
from problems import problem

from planner.communication import MOST_HIDDEN_EXPERTS
from planner.efficiency import host
from planner.evaluate import Evaluator
from planner.layer_seconds import LayerSeconds, PartSeconds
from planner.layout import NO_RECOMPUTE, Layout, Recompute
from planner.parameters import model_parameters
from planner.possible import possible_elsewhere
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.saving import ASSUMED_DISK_BYTES_PER_SECOND, saving
from planner.split import even_split
from planner.step_time import Overlap
from planner.straggler import straggler_seconds
from planner.workload import TunerType

FULL = Recompute(granularity="full", method="uniform", num_layers=1)


def selective(*modules: str) -> Recompute:
    return Recompute(granularity="selective", modules=modules)


def layer(*, device: float, launch: float, is_moe: bool = True) -> LayerSeconds:
    """A layer of so many seconds forward and as many backward; "act" takes 2 of the GPU and 3 of
    the host backward, and 1 of the host forward."""
    half = PartSeconds(
        forward=device / 2,
        backward=device / 2,
        forward_launch=launch / 2,
        backward_launch=launch / 2,
    )
    act = PartSeconds(forward=0.0, backward=2.0, forward_launch=1.0, backward_launch=3.0)
    return LayerSeconds(is_moe=is_moe, attention=half, feed_forward=half, again={"act": act})


@pytest.mark.parametrize(
    ("device", "launch", "added"),
    [(100.0, 10.0, 2.0), (10.0, 100.0, 4.0), (10.0, 10.0, 1.0 + 3.0), (10.5, 10.0, 0.5 + 2.5)],
)
def test_a_module_adds_what_decides(device: float, launch: float, added: float) -> None:
    """To a pass that waits for the host what the host takes, to others what the GPU takes."""
    found = layer(device=device, launch=launch).recompute(selective("act"), full=False)

    assert found == pytest.approx(added)


def test_nothing_recomputed_adds_nothing_and_a_whole_layer_its_forward_pass() -> None:
    one = layer(device=10.0, launch=7.0)

    assert one.recompute(NO_RECOMPUTE, full=False) == 0.0
    assert one.recompute(selective("of another layer"), full=False) == 0.0
    assert one.recompute(FULL, full=True) == one.forward


def test_a_dispatcher_that_runs_again_waits_and_dense_parts_do_not() -> None:
    sparse, dense = (layer(device=10.0, launch=4.0, is_moe=each) for each in (True, False))

    assert sparse.recompute(selective("moe"), full=False) == 5.0
    assert sparse.waiting(selective("moe"), full=False) == 0.0
    assert dense.recompute(selective("moe"), full=False) == 0.0


def test_the_host_takes_for_modules_what_was_read_off() -> None:
    """`python benchmarks/kernels/again.py` prints it."""
    assert host().again.model_dump() == again.again()


def step_seconds(stated: Problem, recompute: Recompute) -> float:
    evaluator = Evaluator(stated)
    split = even_split(stated.model.num_layers, 1, 1)
    assert split is not None
    world = stated.cluster.num_gpus
    layout = Layout(world_size=world, ep=8, split=split, recompute=recompute, global_batch_size=16)
    return evaluator.batch(layout).step_seconds(recompute)


def test_every_module_that_a_layer_has_costs_time_and_others_none() -> None:
    """Short packs, for which the host decides: Moonlight has latent attention, shared experts and a
    dense layer, Qwen3 none of them but norms."""
    costs = {}
    for name in ("Moonlight-16B-A3B-Instruct", "Qwen3-30B-A3B"):
        stated = problem(name, gpus=8, seq_length=2048)
        without = step_seconds(stated, NO_RECOMPUTE)
        for module in ("layernorm", "moe_act", "mlp", "mla_up_proj", "core_attn", "shared_experts"):
            costs[name, module] = step_seconds(stated, selective(module)) - without

    free = {key for key, seconds in costs.items() if seconds == 0.0}
    assert free == {("Qwen3-30B-A3B", each) for each in ("mlp", "mla_up_proj", "shared_experts")}
    assert all(seconds >= 0.0 for seconds in costs.values())
    moonlight = {module: costs["Moonlight-16B-A3B-Instruct", module] for _, module in costs}
    assert moonlight["layernorm"] > moonlight["moe_act"]


# -- the exchange of experts beside another microbatch ---------------------------------------------


def layout_of(stated: Problem, recompute: Recompute, pp: int = 1, vpp: int = 1) -> Layout:
    split = even_split(stated.model.num_layers, pp, vpp)
    assert split is not None
    world = stated.cluster.num_gpus
    return Layout(
        world_size=world, pp=pp, vpp=vpp, ep=8, split=split, recompute=recompute,
        global_batch_size=64,
    )  # fmt: skip


def test_part_of_the_exchange_is_seen_whatever_computes_beside_it() -> None:
    stated = problem("Qwen3-30B-A3B", gpus=16)
    layout = layout_of(stated, NO_RECOMPUTE)
    time = Evaluator(stated, Overlap(expert_parallel=True)).batch(layout).step_time(NO_RECOMPUTE)
    term = next(each for each in time.terms if each.id == "expert_all_to_all")

    assert term.hidden / (term.hidden + term.seconds) == pytest.approx(MOST_HIDDEN_EXPERTS)


@pytest.mark.parametrize(
    ("recompute", "pp", "vpp", "possible"),
    [
        (NO_RECOMPUTE, 1, 1, True),
        (selective("layernorm"), 2, 2, True),
        (NO_RECOMPUTE, 2, 1, False),
        (selective("moe"), 1, 1, False),
        (FULL, 1, 1, False),
    ],
)
def test_only_what_megatron_core_takes_is_possible(
    recompute: Recompute, pp: int, vpp: int, possible: bool
) -> None:
    stated = problem("Qwen3-30B-A3B", gpus=16)
    layout = layout_of(stated, recompute, pp, vpp)
    evaluator = Evaluator(stated)
    seconds = evaluator.batch(layout).step_seconds(recompute)
    flags = [each.values["flag"] for each in possible_elsewhere(evaluator, layout, seconds)]

    assert ("--overlap-moe-expert-parallel-comm" in flags) == possible


# -- the busiest rank ------------------------------------------------------------------------------


def test_the_busiest_rank_takes_what_the_step_is_longer_than_an_even_one() -> None:
    stated = problem("Qwen3-30B-A3B", gpus=8)
    loads = [
        replace(stated, workload=replace(stated.workload, routing_imbalance=each))
        for each in (1.0, 1.2, 2.0)
    ]
    layout = layout_of(stated, NO_RECOMPUTE)
    totals = [Evaluator(each).batch(layout).step_seconds(NO_RECOMPUTE) for each in loads]
    found = [
        straggler_seconds(Evaluator(each), layout, total)
        for each, total in zip(loads, totals, strict=True)
    ]

    assert found == pytest.approx([total - totals[0] for total in totals])
    assert found[0] == 0.0 < found[1] < found[2]
    assert straggler_seconds(Evaluator(loads[2]), replace(layout, ep=1), totals[2]) == 0.0


# -- saving ----------------------------------------------------------------------------------------


def test_a_checkpoint_has_weights_and_states_once() -> None:
    stated = problem("Qwen3-30B-A3B", gpus=16)
    parameters = sum(model_parameters(stated.model).values())
    found = saving(stated, 3.0)

    assert found["bytes"] == parameters * (2 + 12)
    assert found["seconds"] == found["bytes"] / 2 / ASSUMED_DISK_BYTES_PER_SECOND
    assert found["seconds_per_step"] == found["seconds"] / stated.recipe.save_steps
    seconds = 3.0 + found["seconds_per_step"]
    assert found["tokens_per_second_per_gpu"] == stated.workload.step_tokens / seconds / 16


def test_without_states_or_with_adapters_a_checkpoint_is_smaller() -> None:
    stated = problem("Qwen3-30B-A3B", gpus=8)
    recipe = replace(load_recipe(TunerType.FULL), no_save_optim=True)
    weights = saving(replace(stated, recipe=recipe), 3.0)["bytes"]
    lora = replace(stated.workload, tuner_type=TunerType.LORA, lora_rank=8)
    adapters = saving(replace(stated, workload=lora), 3.0)["bytes"]

    assert weights == 2 * sum(model_parameters(stated.model).values())
    assert 0 < adapters < weights / 10
