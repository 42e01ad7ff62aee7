"""What is known about models: the list of them, and one of them by part."""

from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from planner.architectures import ARCHITECTURES
from planner.model_files import BundledModel, resolve_model
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.parameters import active_parameters, model_parameters
from planner.reasons import not_trained
from planner.report.answer import FORMAT_VERSION
from planner.report.numbers import billions, percent

WIDTH = 100


def use(model: ModelSpec) -> str:
    """How far the planner goes with a model: "counted", "planned" or "trained"."""
    if model.unplanned_attention is not None:
        return "counted"
    return "trained" if not_trained(model) is None else "planned"


def catalogue_to_json(catalogue: Sequence[BundledModel]) -> dict[str, Any]:
    """The bundled models and the known architectures; `total` has vision towers, but not MTP."""
    models = []
    for bundled in catalogue:
        model = resolve_model(bundled.name)
        about = asdict(bundled)
        about["total_without_mtp_and_vision"] = about.pop("total_parameters")
        total = sum(model_parameters(model).values())
        models.append(about | {"model_type": model.model_type, "use": use(model), "total": total})
    architectures = {name: {"not_trained": a.not_trained} for name, a in ARCHITECTURES.items()}
    return {"format_version": FORMAT_VERSION, "models": models, "architectures": architectures}


def describe_catalogue(catalogue: Sequence[BundledModel]) -> str:
    """A table of the bundled models, and the architectures of which any model is read."""
    whole = StringIO()
    out = Console(file=whole, width=WIDTH, highlight=False, no_color=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("model", "type", "total", "active", "layers", "experts", "attention", "use"):
        number = heading in ("total", "active", "layers")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for bundled in catalogue:
        model = resolve_model(bundled.name)
        moe = model.moe
        table.add_row(
            bundled.name,
            model.model_type,
            billions(sum(model_parameters(model).values())),
            billions(active_parameters(model)) if moe else "",
            str(model.num_layers),
            f"{moe.num_experts} top-{moe.router_topk}" if moe else "",
            attention(model),
            use(model),
        )
    out.print(table)
    out.print()
    out.print(
        "trained: planned, and scripts are written. planned: ms-swift cannot train it with "
        "Megatron today. counted: parameters only, its attention is not modelled.",
        soft_wrap=False,
    )
    out.print(
        "Any config.json of these types is read: " + ", ".join(sorted(ARCHITECTURES)),
        soft_wrap=False,
    )
    return _stripped(whole)


def attention(model: ModelSpec) -> str:
    """The kind of attention in a word or two."""
    if model.linear_attention is not None:
        return "hybrid"
    if isinstance(model.attention, GroupedQueryAttention):
        return "GQA"
    return "MLA" if model.attention.indexer is None else "MLA, sparse"


def model_to_json(model: ModelSpec) -> dict[str, Any]:
    """A model's parameters by part, MTP layers apart."""
    parts, mtp = _parts(model)
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(model),
        "use": use(model),
        "not_trained": not_trained(model),
        "unplanned_attention": model.unplanned_attention,
        "parameters": parts,
        "total": sum(parts.values()),
        "active": active_parameters(model),
        "mtp_parameters": mtp,
    }


def describe_model(model: ModelSpec) -> str:
    """A model's parameters by part, with their share of the whole."""
    parts, mtp = _parts(model)
    total = sum(parts.values())
    whole = StringIO()
    out = Console(file=whole, width=WIDTH, highlight=False, no_color=True)
    out.print(f"{model.name}   {model.model_type}, {model.num_layers} layers, {attention(model)}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right")
    for part, elements in parts.items():
        table.add_row(part, f"{elements:,}", percent(elements / total))
    table.add_row("total", f"{total:,}", percent(1.0))
    table.add_row("active a token", f"{active_parameters(model):,}", "")
    if mtp:
        table.add_row(f"{model.mtp_num_layers} MTP layer, not in the total", f"{mtp:,}", "")
    out.print(table)
    if model.unplanned_attention is not None:
        out.print(f"No layout is planned: {model.unplanned_attention} is not modelled.")
    refused = not_trained(model)
    if refused is not None:
        out.print(f"No scripts are written: {refused}.")
    return _stripped(whole)


def _parts(model: ModelSpec) -> tuple[dict[str, int], int]:
    parts = model_parameters(model)
    with_mtp = model_parameters(model, mtp_num_layers=model.mtp_num_layers)
    return parts, sum(with_mtp.values()) - sum(parts.values())


def _stripped(whole: StringIO) -> str:
    return "".join(line.rstrip() + "\n" for line in whole.getvalue().splitlines())
