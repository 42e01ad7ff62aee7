"""What kernels reach on a GPU, what runs between them and what the host takes: `data/kernels/`."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from planner.cluster import AS_PREDICTED, Assumption, Calibration, Gpu
from planner.yaml_files import Sourced, StrictModel, load_yaml_model

KERNELS_FOLDER = Path(__file__).parent / "data" / "kernels"


class _Kernels(StrictModel):
    gemm: Sourced[float]
    gemm_weight: Sourced[float]
    grouped_gemm: Sourced[float]
    grouped_gemm_backward: Sourced[float]
    attention_forward: Sourced[float]
    attention_backward: Sourced[float]
    memory: Sourced[float]


class _RatesFile(StrictModel):
    kernels: dict[str, _Kernels]


class Passes(StrictModel):
    """Reads and writes of bf16 elements by what they are of, and the time that is always taken:
    see `data/kernels/passes.yaml`."""

    microseconds: float = 0.0
    hidden: float = 0.0
    rotary: float = 0.0
    normed: float = 0.0
    latent: float = 0.0
    context: float = 0.0
    ffn: float = 0.0
    scores: float = 0.0
    rows: float = 0.0
    row: float = 0.0
    logits: float = 0.0
    inputs: float = 0.0
    outputs: float = 0.0
    padding: float = 0.0  # keys


class BothWays(StrictModel):
    """Passes of a part, forward and backward."""

    forward: Passes
    backward: Passes


class Gemm(StrictModel):
    """What a product takes beside its FLOPs."""

    microseconds: float
    operands: float
    gradients: float


class Between(StrictModel):
    """What runs between the products, by part."""

    attention: BothWays
    core: BothWays
    dense: BothWays
    moe: BothWays
    experts: BothWays
    adapters: BothWays
    head: BothWays
    gemm: Gemm


class Launch(StrictModel):
    """Milliseconds of the host for a part, forward and backward."""

    forward: float
    backward: float


class Again(StrictModel):
    """Milliseconds of the host for what is recomputed: to run a module again, and around it: `lean`
    where its output is given up too, `whole` where it is not."""

    norm: float
    core: float
    up_projections: float
    activation: float
    lean: Launch
    whole: Launch


class Host(StrictModel):
    """Milliseconds that the host takes to launch parts of a layer: see `data/kernels/host.yaml`."""

    source: str
    attention: Launch
    latent: Launch
    norms: Launch
    context: Launch
    sharded_attention: Launch
    dense: Launch
    sharded: Launch
    moe: Launch
    expert: Launch
    shared: Launch
    adapter: Launch
    expert_adapter: Launch
    head: Launch
    step: float
    batch: Launch
    again: Again


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What kernels reach on a GPU, in FLOP/s and bytes/s.

    `launch` is how long the host takes to launch, over the host that was measured.
    """

    gemm: float
    gemm_weight: float
    grouped_gemm: float
    grouped_gemm_backward: float
    attention_forward: float
    attention_backward: float
    memory: float
    launch: float


@cache
def _rates_file() -> _RatesFile:
    return load_yaml_model(KERNELS_FOLDER / "rates.yaml", _RatesFile)


@cache
def between() -> Between:
    """What runs between the products."""
    return load_yaml_model(KERNELS_FOLDER / "passes.yaml", Between)


@cache
def host() -> Host:
    """Launch times of the host that was measured; those of other hosts are not known."""
    return load_yaml_model(KERNELS_FOLDER / "host.yaml", Host)


def _kernels(gpu: Gpu) -> _Kernels:
    capability = ".".join(str(part) for part in gpu.compute_capability)
    kernels = _rates_file().kernels
    return kernels.get(capability, kernels["default"])


def rates(gpu: Gpu, calibration: Calibration = AS_PREDICTED) -> Rates:
    """Rates of the kernels of a GPU."""
    kernels = _kernels(gpu)
    flops = gpu.bf16_flops_per_second / calibration.gemm
    memory = kernels.memory.value * gpu.hbm_bandwidth_bytes_per_second / calibration.memory
    products = (field.name for field in fields(Rates) if field.name not in ("memory", "launch"))
    return Rates(
        **{name: getattr(kernels, name).value * flops for name in products},
        memory=memory,
        launch=calibration.launch,
    )


def efficiency_assumptions(gpu: Gpu) -> tuple[Assumption, ...]:
    """The efficiencies of a GPU that nobody measured, and launch times of the user's host."""
    kernels = _kernels(gpu)
    launch = Assumption(
        id="launch.host",
        value=host().moe.forward,
        unit="ms for a sparse layer forward",
        source="another host, which took up to 1.5 times as long at other times",
    )
    found = (
        Assumption(
            id=f"efficiency.{name}",
            value=entry.value,
            unit="fraction of peak",
            source=entry.source,
        )
        for name in type(kernels).model_fields
        if (entry := getattr(kernels, name)).assumed
    )
    return (launch, *found)
