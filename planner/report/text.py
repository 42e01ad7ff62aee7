"""The answer as text: a header, a table, the winner in detail, and what to do next."""

from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.layout import Layout
from planner.memory_terms import TERMS
from planner.plan import Plan, StagePlan
from planner.problem import Problem
from planner.reasons import crossing_groups
from planner.report.answer import Answer
from planner.report.header import header
from planner.report.numbers import bar, gib, percent, seconds, with_unit
from planner.report.step import step_lines
from planner.report.tables import SIZES, plain_table, recompute_cell, size_cells
from planner.report.trust import odds, ties_words, trust
from planner.verdict import MARGIN_FRACTION

if TYPE_CHECKING:
    from planner.pareto import Point
    from planner.reach import Reach

FULL_WIDTH = 100
_GROUPS = {term.id: term.group for term in TERMS}
_COLUMNS = ("weights", "grads", "optimizer", "acts", "buffers", "logits", "other")


def answer_text(answer: Answer, *, width: int, color: bool, next_steps: list[str]) -> str:
    """A search with its ranked plans, or the one plan of `plan check`.

    Readable from 80 columns; from 100 on the table has all its columns.
    """
    whole = StringIO()
    out = Console(
        file=whole,
        width=width,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )
    _print_pairs(out, header(answer))
    if answer.reach is not None:
        _print_reach(answer.reach, out)
    if answer.search is not None:
        out.print()
        _print_table(answer, out, width >= FULL_WIDTH)
    if answer.pareto is not None:
        _print_pareto(answer.pareto, out)
    for plan in answer.plans[:1]:
        out.print()
        _print_plan(answer.problem, plan, out, numbered=answer.search is not None)
    out.print()
    _print_pairs(out, [("Assumed", each) for each in _assumed(answer)])
    if next_steps:
        _print_pairs(out, [("Next", step) for step in next_steps])
    return "".join(line.rstrip() + "\n" for line in whole.getvalue().splitlines())


def _print_reach(reach: "Reach", out: Console) -> None:
    from planner.report.ranking import reach_table, reach_words

    out.print()
    out.print(reach_table(reach))
    out.print(Text(reach_words(reach)))


def _print_pareto(points: "list[Point]", out: Console) -> None:
    from planner.report.ranking import pareto_table, pareto_words

    out.print()
    out.print(Text(pareto_words(points)))
    out.print(pareto_table(points))


def _print_pairs(out: Console, pairs: list[tuple[str, str]]) -> None:
    """Lines under a name, the name only once; long lines are folded under their beginning."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=9)
    table.add_column(overflow="fold")
    before = None
    for name, text in pairs:
        table.add_row(Text("" if name == before else name, style="bold"), Text(text))
        before = name
    out.print(table)


def _print_table(answer: Answer, out: Console, wide: bool) -> None:
    assert answer.ties is not None
    table = plain_table()
    table.add_column("")
    for name in SIZES:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("recompute", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    if wide:
        table.add_column("fits", no_wrap=True)
    for name in ("s/step", "tok/s/GPU", "TFLOP/s"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("crosses", no_wrap=True)
    for number, plan in enumerate(answer.plans, start=1):
        style = "bold" if number == 1 else "dim" if number > 3 else ""
        table.add_row(*_row(answer.problem, plan, number, wide), style=style)
    out.print(table)
    shown, grids = len(answer.plans), answer.grids_that_fit
    out.print(Text(f"Shown {shown} of {grids} grids. {ties_words(answer.ties)}"))
    if any(plan.verdict == "tight" for plan in answer.plans):
        margin = percent(MARGIN_FRACTION)
        less = f"leaves less than {margin} of what it needs free"
        if answer.plans[-1].lacks is not None:
            less += ", or takes more of its hosts' memory than they are assumed to have"
        out.print(Text(f"! {less}: ranked last."))
    out.print(Text(trust(answer.problem, answer.plans[0])))


def _row(problem: Problem, plan: Plan, number: int, wide: bool) -> list[str]:
    layout, used, usable = plan.layout, plan.device_used, problem.cluster.gpu.memory_usable_bytes
    row = [f"{'>' if number == 1 else ' '}{number}", *size_cells(layout)]
    row += [recompute_cell(layout), gib(used)]
    if wide:
        row.append(bar(used / usable) + ("!" if plan.verdict == "tight" else ""))
    row += [
        seconds(plan.step_seconds["total"]),
        f"{plan.tokens_per_second_per_gpu:.0f}",
        f"{plan.model_tflops_per_gpu:.0f}",
    ]
    if wide:
        row.append(" ".join(crossing_groups(problem, layout)) or "-")
    return row


def identities(layout: Layout) -> str:
    """Both factorisations of the world size; the sizes alone where they are not factors of it."""
    sizes = layout.tp * layout.cp * layout.dp, layout.etp * layout.ep * layout.edp
    if any(size * layout.pp != layout.world_size for size in sizes):
        names = ("tp", "pp", "cp", "ep", "etp")
        named = " ".join(f"{name}{getattr(layout, name)}" for name in names)
        return f"{named} on {layout.world_size} GPUs"
    return (
        f"{layout.world_size} = tp{layout.tp}*cp{layout.cp}*dp{layout.dp}*pp{layout.pp} "
        f"= etp{layout.etp}*ep{layout.ep}*edp{layout.edp}*pp{layout.pp}"
    )


def _print_plan(problem: Problem, plan: Plan, out: Console, *, numbered: bool) -> None:
    layout = plan.layout
    name = "Plan 1" if numbered else "Layout"
    pairs = [(name, identities(layout))]
    pairs += [(broken.kind, f"{broken.message}: {broken.fix}") for broken in plan.violations]
    if plan.verdict is None:
        pairs.append(("verdict", "illegal: there is nothing to evaluate"))
        _print_pairs(out, pairs)
        return
    number = layout.num_microbatches
    microbatches = f"{number} microbatch{'es' if number > 1 else ''} of {layout.micro_batch_size}"
    bubble = plan.step_seconds["pipeline_bubble"] / plan.step_seconds["total"]
    pairs.append(("", f"{microbatches}   recompute {layout.recompute}   bubble {percent(bubble)}"))
    pairs += [("why", reason.message) for reason in plan.reasons[:-1]]
    pairs += [("limit", plan.reasons[-1].message)]
    if not numbered:
        broken = any(each.kind != "placement" for each in plan.violations)
        found = f"memory {plan.verdict}, but it does not run" if broken else plan.verdict
        pairs.append(("verdict", f"{found}   {_speed(plan)}"))
    pairs.append(("odds", odds(problem, plan)))
    pairs += [("time", line) for line in step_lines(problem, plan)]
    pairs.append(("host", _host(problem, plan)))
    pairs.append(("memory", _checkpoints(problem, plan)))
    _print_pairs(out, pairs)
    out.print()
    _print_stages(plan, problem.workload.mtp_num_layers, out)


def _speed(plan: Plan) -> str:
    return (
        f"{seconds(plan.step_seconds['total'])} s a step, "
        f"{plan.tokens_per_second_per_gpu:.0f} tokens/s/GPU, "
        f"{plan.model_tflops_per_gpu:.0f} TFLOP/s/GPU"
    )


def _host(problem: Problem, plan: Plan) -> str:
    parts = [f"{moment} {gib(size)}" for moment, size in plan.host_memory_bytes.items()]
    has = gib(problem.cluster.host_memory_bytes)
    return f"{', '.join(parts)} of {has} GiB a node, roughly"


def _checkpoints(problem: Problem, plan: Plan) -> str:
    """What loading, saving and resuming take of the fullest GPU, beside its allocator."""
    most = {
        name: max(stage.memory_bytes[name] for stage in plan.stages)
        for name in ("loading", "saving", "resuming", "device_used_resumed")
    }
    *allocated, resumed = map(gib, most.values())
    if problem.recipe.no_save_optim:
        loading, saving, _ = allocated
        return (
            f"loading {loading}, saving {saving} GiB allocated of a GPU; an interrupted run cannot "
            "go on, as its checkpoints leave out the optimizer's states (no_save_optim)"
        )
    return (
        "loading {}, saving {}, resuming {} GiB allocated of a GPU; ".format(*allocated)
        + f"steps after resuming take {resumed} GiB of it"
    )


def _print_stages(plan: Plan, mtp_num_layers: int, out: Console) -> None:
    """One line a stage."""
    table = plain_table()
    table.add_column("stage", no_wrap=True)
    table.add_column("layers")
    present = [name for name in _COLUMNS if any(_group(stage, name) for stage in plan.stages)]
    for name in (*present, "peak", "device"):
        table.add_column(name, justify="right", no_wrap=True)
    last = len(plan.stages) - 1
    for stage in plan.stages:
        memory = stage.memory_bytes
        numbers = [gib(_group(stage, name)) for name in present]
        table.add_row(
            str(stage.stage),
            _layers(stage, last, mtp_num_layers),
            *numbers,
            gib(memory["peak_allocated"]),
            gib(memory["device_used"]),
        )
    out.print(table)
    nccl = max(stage.memory_bytes["nccl"] for stage in plan.stages)
    note = "GiB at the peak; device: with the allocator's reserve, CUDA context and NCCL"
    note += f" (at most {gib(nccl)})"
    if any(_skewed(stage) for stage in plan.stages):
        note += "; device is at the routing imbalance, the peak and its terms at balance"
    out.print(Text(note))


def _group(stage: StagePlan, group: str) -> int:
    return sum(size for term, size in stage.terms.items() if _GROUPS[term] == group)


def _skewed(stage: StagePlan) -> bool:
    memory = stage.memory_bytes
    return bool(memory["peak_allocated_at_imbalance"] != memory["peak_allocated"])


def _layers(stage: StagePlan, last: int, mtp_num_layers: int) -> str:
    chunks = stage.layer_ids
    if len(chunks) > 2:
        text = f"{stage.num_layers} in {len(chunks)}"
    else:
        text = " ".join(_range(chunk) for chunk in chunks if chunk)
    parts = ["E"] if stage.stage == 0 else []
    parts += [text] if stage.num_layers else []
    if stage.stage == last:
        parts += ["MTP", "L"] if mtp_num_layers else ["L"]
    return " + ".join(parts)


def _range(chunk: list[int]) -> str:
    return f"{chunk[0]}-{chunk[-1]}" if len(chunk) > 1 else str(chunk[0])


def _assumed(answer: Answer) -> list[str]:
    return [
        f"{each.id} = {with_unit(each.value, each.unit)}   ({each.source})"
        for each in answer.assumptions
    ]
