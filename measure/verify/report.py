"""What `plan verify` says: what was predicted of ranks beside what was measured of them."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from measure.verify.row import Row
from planner.command import WIDEST
from planner.errors import EnvironmentLacksError
from planner.memory_terms import TERMS
from planner.plan import StagePlan
from planner.report.answer import error_to_json
from planner.run import FORMAT_VERSION, Run
from planner.stage_shape import Moment
from planner.units import GIB, MICRO, MILLI

# Device use less reserved of a process alone was 0.70 to 0.93 GiB, its CUDA context
# (benchmarks/memory); more is another process's, as use is total less free of the device.
MOST_CONTEXT_BYTES = GIB
LABEL_WIDTH = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A size of a stage, in bytes: its title, and its names in a plan and in a result.

    All are at the load of the rank's experts that was planned for, or do not depend on it.
    """

    title: str
    planned: str
    measured: str


SIZES = {
    "after_build": Quantity(title="after building", planned="after_build", measured="after_build"),
    "steady": Quantity(title="between steps", planned="steady", measured="steady"),
    "peak_forward_backward": Quantity(
        title="forward and backward, peak",
        planned="peak_forward_backward_at_imbalance",
        measured="forward_backward_peak",
    ),
    "peak_optimizer_step": Quantity(
        title="optimizer's step, peak", planned="peak_optimizer_step", measured="optimizer_peak"
    ),
    "peak_allocated": Quantity(
        title="peak allocated", planned="peak_allocated_at_imbalance", measured="peak_allocated"
    ),
    "peak_reserved": Quantity(
        title="peak reserved", planned="peak_reserved", measured="peak_reserved"
    ),
    "device_used": Quantity(
        title="device use, without NCCL", planned="device_used", measured="device_used"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A stage as planned, the row that measures its worst rank, and what was measured.

    `documents` are those of a pack as planned for, on average.
    """

    stage: StagePlan
    row: Row
    documents: float
    result: dict[str, Any]

    @property
    def load(self) -> float | None:
        """What the rank's experts got over the mean; None: it has none."""
        tokens = self.result.get("expert_tokens")
        return tokens["mean"] / tokens["balanced"] if tokens else None

    @property
    def terms(self) -> dict[str, int]:
        """Predicted bytes by term at the peak at the planned load."""
        memory = self.stage.memory_bytes
        terms: dict[str, int] = memory.get("terms_at_imbalance", memory["terms"])
        return terms

    @property
    def moment(self) -> str:
        """When that peak is."""
        memory = self.stage.memory_bytes
        return str(memory.get("peak_moment_at_imbalance", memory["peak_moment"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A quantity as predicted and as measured: bytes, seconds or a number."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


def compared(verified: Verified) -> dict[str, Compared]:
    """What was predicted of a stage beside what was measured of its rank; what a run.json of before
    does not say is left out."""
    stage, result = verified.stage, verified.result
    memory = stage.memory_bytes
    pairs: dict[str, tuple[float, float]]
    pairs = {"parameters": (stage.parameters, result["parameters"])}
    measured = {**result, "after_build": result["after_build"]["allocated"]}
    for name, size in SIZES.items():
        if size.planned in memory:
            beside = memory.get("nccl", 0) if name == "device_used" else 0  # no other rank is there
            pairs[name] = (memory[size.planned] - beside, measured[size.measured])
    pairs["compute_seconds"] = (stage.compute_seconds, result["compute_seconds"])
    return {name: Compared(predicted=p, measured=m) for name, (p, m) in pairs.items()}


def to_json(run: Run, found: Sequence[Verified], error: EnvironmentLacksError | None = None) -> str:
    """One JSON object: bytes and seconds, and the results as they were measured; with the error
    that kept the stages behind these from being measured."""
    content = {
        "format_version": FORMAT_VERSION,
        "model": run.model.name,
        "stages": [_stage_to_json(each) for each in found],
    }
    if error:
        content["error"] = error_to_json(error)["error"]
    return json.dumps(content, indent=2) + "\n"


def _stage_to_json(verified: Verified) -> dict[str, Any]:
    stage, row = verified.stage, verified.row
    return {
        "rank": row.rank,
        "stage": stage.stage,
        "expert_load": {"planned": row.expert_load, "measured": verified.load},
        "documents_per_pack": {"planned": verified.documents, "measured": row.documents_per_pack},
        "compared": {
            name: {"predicted": each.predicted, "measured": each.measured, "error": each.error}
            for name, each in compared(verified).items()
        },
        "predicted_moment": verified.moment,
        "predicted_terms": verified.terms,
        "measured": verified.result,
    }


def to_text(run: Run, verified: Verified) -> str:
    """What was predicted and measured, a line a moment, then the predicted terms at the peak and
    the largest tensors that were found there."""
    stage, row = verified.stage, verified.row
    pairs = compared(verified)
    stages = len(run.plan.stages)
    lines = [
        f"{run.model.name}: rank {row.rank} of {row.world_size}, stage {stage.stage} of {stages}",
        *_notes(run, verified),
        "",
        f"{'':<34}{'predicted':>12}{'measured':>12}{'error':>9}",
        _line("parameters, billions", pairs["parameters"], 1e9, 3),
        *(
            _line(f"{size.title}, GiB", pairs[name], GIB, 2)
            for name, size in SIZES.items()
            if name in pairs
        ),
        _line("compute of a step, s", pairs["compute_seconds"], 1.0, 3),
        "",
    ]
    if "trace" in verified.result:
        lines += [*_parts(verified), ""]
    lines.append(f"predicted at the peak ({verified.moment}), GiB")
    terms = sorted(verified.terms.items(), key=lambda term: -term[1])
    lines += [f"{size / GIB:10.2f}  {name}" for name, size in terms if size >= GIB / 100]
    if "trace" in verified.result:
        lines += ["", "measured at the peak beside what was there between steps, GiB"]
        at_peak = verified.result["trace"]["at_peak"]
        lines += [f"{size / GIB:10.2f}  {site}" for size, _, site in at_peak]
    return "\n".join(lines) + "\n"


def _notes(run: Run, verified: Verified) -> Iterator[str]:
    """Under which conditions all lines are, and what time and device use depend on besides."""
    row, result = verified.row, verified.result
    if verified.load is not None:
        load = f"this rank's experts at {row.expert_load:g} x the mean, as planned"
        yield from _note("load", f"{load}; measured: {verified.load:.2f}")
    yield from _note("packs", _packs(run, verified))
    looks = result.get("host_speed")
    host = f"; {_host(looks)}" if looks else ""
    yield from _note(
        "compute",
        "of ranks that wait for the host varies with it: the same host takes up to 1.5 times as "
        f"long at other times{host}; copies stand in for what other ranks send",
    )
    if "not_traced" in result:
        yield from _note("trace", f"none: {result['not_traced']}")
    beside = result["device_used"] - result["peak_reserved"]
    if beside > MOST_CONTEXT_BYTES:
        yield from _note(
            "device",
            f"{beside / GIB:.2f} GiB in use are not of torch's allocator, more than a CUDA context "
            "was seen to take: other processes may have memory of this GPU",
        )


def _packs(run: Run, verified: Verified) -> str:
    row, length = verified.row, run.plan.args["max_length"]
    assert isinstance(length, int)
    number = row.documents_per_pack
    text = f"{number} document{'s' * (number > 1)} of {length // number} tokens"
    if number == verified.documents:
        return f"{text}, as planned"
    mean = length / verified.documents
    return f"{text}, the nearest to the {mean:g} that are planned on average that divide a pack"


def _host(looks: Sequence[dict[str, float]]) -> str:
    launches = [look["launch"] / MICRO for look in looks]
    layers = [look["layer"] / MILLI for look in looks]
    return (
        f"between these steps a launch took {min(launches):.1f} to {max(launches):.1f} us of it, a "
        f"small layer {min(layers):.2f} to {max(layers):.2f} ms"
    )


def _note(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDEST,
        initial_indent=f"{label:<{LABEL_WIDTH}}",
        subsequent_indent=" " * LABEL_WIDTH,
    )


def _line(title: str, pair: Compared, unit: float, decimals: int) -> str:
    sizes = (f"{value / unit:>12.{decimals}f}" for value in (pair.predicted, pair.measured))
    return f"{title:<34}" + "".join(sizes) + f"{pair.error:>+9.1%}"


# -- at the peak, as far as call sites tell terms apart --------------------------------------------

# Terms that the output layer and the loss allocate, and the files in which nothing but they and the
# embedding allocates (megatron-core 0.18.1).
LOSS_TERMS = ("logits_bf16", "logits_fp32", "mtp_logits", "head_gradients")
LOSS_FILES = (
    "megatron/core/tensor_parallel/cross_entropy.py",
    "megatron/core/fusions/fused_cross_entropy.py",
    "megatron/core/tensor_parallel/layers.py",
)
EMBEDDING_FILE = "language_model_embedding.py"
_KEPT = frozenset(term.id for term in TERMS if Moment.STEADY in term.moments)


def parts_at_peak(
    terms: Mapping[str, int], peak: float, sites: Sequence[tuple[float, str]]
) -> dict[str, tuple[float, float]]:
    """The peak in three parts, predicted and measured: what a step found, what the output layer and
    the loss allocated, and all else that the step did. Call sites tell no more terms apart: the
    same lines allocate what is kept for backward and what is there for a moment.

    `sites` are bytes and call sites of what lives at the `peak` and was allocated in the step.
    """
    allocated = sum(size for size, _ in sites)
    loss = sum(size for size, site in sites if of_loss(site))
    kept = sum(size for name, size in terms.items() if name in _KEPT)
    losses = sum(terms.get(name, 0) for name in LOSS_TERMS)
    return {
        "from before the step": (kept, peak - allocated),
        "output layer and loss": (losses, loss),
        "activations and buffers": (sum(terms.values()) - kept - losses, allocated - loss),
    }


def _parts(verified: Verified) -> list[str]:
    trace = verified.result["trace"]
    sites = [(size, site) for size, _, site in trace["at_peak"]]
    lines = [f"{'at the peak, GiB':<34}{'predicted':>12}{'measured':>12}"]
    for title, sizes in parts_at_peak(verified.terms, trace["peak"], sites).items():
        lines.append(f"{title:<34}" + "".join(f"{size / GIB:>12.2f}" for size in sizes))
    return lines


def of_loss(site: str) -> bool:
    """Whether the output layer or the loss allocates at a call site, the innermost frame first."""
    innermost = site.split(" < ")[0]
    return any(file in innermost for file in LOSS_FILES) and EMBEDDING_FILE not in site
