"""Layouts drawn at random for every model that the stack can train, the same at every call."""

import random

from problems import problem

from planner.architectures import ARCHITECTURES
from planner.constraints import violations
from planner.layout import PipelineSplit
from planner.model_files import known_models, resolve_model
from planner.model_spec import ModelSpec
from planner.problem import Problem, Sizes, as_layout
from planner.workload import TunerType
from stack.layouts import Case, split

TRAINED = [
    model.name
    for model in known_models()
    if ARCHITECTURES[resolve_model(model.name).model_type].not_trained is None
]


def random_cases(name: str, number: int, tuner_type: TunerType = TunerType.FULL) -> list[Case]:
    """Return so many layouts of a bundled model that break no rule, no two of the same sizes."""
    model, draw = resolve_model(name), random.Random(name)
    found: dict[tuple[int, ...], Case] = {}
    while len(found) < number:
        world_size = draw.choice([4, 8, 16, 32, 64])
        batch = 8 * world_size
        asked = problem(model, gpus=world_size, global_batch_size=batch, tuner_type=tuner_type)
        sizes = _sizes(asked, draw)
        mtp = draw.randint(0, model.mtp_num_layers)
        if all(each.rule.kind == "placement" for each in violations(asked, sizes)):
            key = (world_size, sizes.tp, sizes.cp, sizes.pp, sizes.ep, sizes.etp, sizes.vpp)
            found[key] = Case(name, as_layout(asked, sizes), mtp)
    return list(found.values())


def _sizes(asked: Problem, draw: random.Random) -> Sizes:
    model = asked.model
    pp = draw.choice([1, 1, 2, 2, 3, 4, 6, 8])
    vpp = draw.choice([1, 1, 2, 3]) if pp > 1 else 1
    return Sizes(
        world_size=asked.cluster.num_gpus,
        tp=draw.choice([1, 1, 2, 4, 8]),
        cp=1 if model.unplanned_attention else draw.choice([1, 1, 1, 2, 4]),
        pp=pp,
        vpp=vpp,
        ep=draw.choice([1, 2, 4, 5, 8, 16]) if model.is_moe else 1,
        etp=draw.choice([1, 1, 1, 2, 4]) if model.is_moe else 1,
        split=_split(model, pp, vpp, draw),
    )


def _split(model: ModelSpec, pp: int, vpp: int, draw: random.Random) -> PipelineSplit | None:
    """Chunks of any sizes; None: there are too few layers."""
    chunks = pp * vpp
    if chunks > model.num_layers:
        return None
    cuts = sorted(draw.sample(range(1, model.num_layers), chunks - 1))
    sizes = [end - first for first, end in zip([0, *cuts], [*cuts, model.num_layers], strict=True)]
    return split([sizes[stage::pp] for stage in range(pp)])
