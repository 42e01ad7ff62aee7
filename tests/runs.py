"""Runs that tests render: models, stacks, tuners and ways of loading."""

from dataclasses import dataclass, replace
from typing import Any

from convert.sizes import conversion_split
from planner.layout import Layout, PipelineSplit, Recompute
from planner.model_files import resolve_model
from planner.plan import Plan
from planner.recipe import load_recipe
from planner.run import Machines, Run
from planner.settings import read_settings, with_settings
from planner.site import Dlc, Mount, Site
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.workload import Load, Task, TunerType, Workload

GIB = 2**30
FULL = Recompute(granularity="full", method="uniform", num_layers=1)


def make_plan(layout: Layout, args: dict[str, Any]) -> Plan:
    """Return a plan of a layout; nothing that scripts need is predicted."""
    return Plan(layout=layout, args=args)


def make_run(
    model: str = "Qwen3-30B-A3B",
    *,
    stack: str = "ms-swift-4.6",
    tuner_type: TunerType = TunerType.FULL,
    load: Load = Load.MCORE,
    num_nodes: int = 2,
    gpus_per_node: int = 8,
    site: Site | None = None,
    mtp_num_layers: int = 0,
    train_iters: int | None = None,
    split: PipelineSplit | None = None,
    name: str | None = None,
    settings: tuple[str, ...] = (),
    task: Task = Task.SFT,
    **sizes: Any,
) -> Run:
    """Return the run of a layout, evenly split unless `split` is given."""
    spec = resolve_model(model)
    spec = replace(spec, name=name or spec.name)
    layout = Layout(
        world_size=num_nodes * gpus_per_node,
        split=split or conversion_split(spec.num_layers, sizes.get("pp", 1)),
        **sizes,
    )
    given = read_settings(settings)
    workload = Workload(tuner_type=tuner_type, mtp_num_layers=mtp_num_layers, task=task)
    recipe = with_settings(replace(load_recipe(tuner_type), train_iters=train_iters), given)
    software = load_stack(stack)
    return Run(
        plan=make_plan(layout, training_args(spec, layout, workload, software, recipe, given)),
        recipe=recipe,
        site=site or Site(model_path=f"/data/models/{spec.name}", dataset=("/data/train.jsonl",)),
        model=spec,
        machines=Machines(
            num_nodes=num_nodes,
            gpus_per_node=gpus_per_node,
            gpu_name="H100-SXM-80GB",
            gpu_memory_bytes=80 * GIB,
        ),
        stack=software,
        load=load,
        task=task,
    )


FULL_SITE = Site(
    model_path="/mnt/data/models/mine",
    dataset=("/mnt/data/a.jsonl", "AI-ModelScope/alpaca-gpt4-data-en#500"),
    workspace="/mnt/data/runs/mine",
    run_folder="/mnt/data/plans/mine",
    image="registry.example/team/ms-swift:4.6",
    mounts=(Mount(mount_path="/mnt/data", uri="cpfs://cpfs-1.example/data"),),
    env={"WANDB_MODE": "offline"},
    dlc=Dlc(workspace_id="1234", resource_id="quota-1", cpu="96", memory="1600Gi"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A run under a name."""

    name: str
    run: Run


# Of each kind something: a split, states, precision, experts, a recipe's value, others handed on.
EVERYTHING_SET = (
    "pipeline_model_parallel_layout=E|t*24|t*24|L",
    "use_precision_aware_optimizer=true",
    "main_grads_dtype=bf16",
    "exp_avg_dtype=bf16",
    "fp8_format=hybrid",
    "fp8_recipe=blockwise",
    "moe_expert_capacity_factor=1.5",
    "lr=3e-5",
    "weight_decay=0.05",
    "report_to=wandb",
    "wandb_project=it's mine",
)


def golden_cases() -> list[Case]:
    """Return runs that between them write every kind of line."""
    uneven = conversion_split(94, 16)
    apart = PipelineSplit((((0, 0),), ((0, 24),), ((24, 48),), ((48, 48),)))
    moe: dict[str, Any] = {"pp": 2, "ep": 8, "recompute": FULL}
    return [
        Case("moe-full-4.6", make_run(**moe)),
        Case("moe-full-3.12", make_run(stack="ms-swift-3.12", **moe)),
        Case("moe-lora-4.6", make_run(tuner_type=TunerType.LORA, tp=2, ep=8, site=FULL_SITE)),
        Case(
            "moe-lora-3.12",
            make_run(tuner_type=TunerType.LORA, stack="ms-swift-3.12", tp=2, ep=8, site=FULL_SITE),
        ),
        Case("moe-direct-4.6", make_run(load=Load.DIRECT, train_iters=6, **moe)),
        Case("moe-direct-3.12", make_run(load=Load.DIRECT, stack="ms-swift-3.12", **moe)),
        Case("dense-4.6", make_run("Qwen2.5-7B", num_nodes=1, tp=4, stack="gpu-kit-2026-11")),
        Case("dense-3.12", make_run("Qwen2.5-7B", num_nodes=1, tp=4, stack="ms-swift-3.12")),
        Case("uneven-4.6", make_run("Qwen3-235B-A22B", num_nodes=16, pp=16, ep=8, split=uneven)),
        Case(
            "mtp-4.6",
            make_run(
                "DeepSeek-V3",
                num_nodes=32,
                pp=16,
                ep=16,
                mtp_num_layers=1,
                recompute=Recompute(granularity="selective", modules=("core_attn", "mla_up_proj")),
            ),
        ),
        Case(
            "pt-set-4.6",
            make_run(
                task=Task.PT, settings=EVERYTHING_SET, pp=4, ep=4, split=apart, recompute=FULL
            ),
        ),
    ]
