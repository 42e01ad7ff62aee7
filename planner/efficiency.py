"""Kernel efficiencies and launch times as data: `data/efficiencies.yaml`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.cluster import AS_PREDICTED, Assumption, Calibration, Gpu
from planner.units import MILLI
from planner.yaml_files import Sourced, StrictModel, load_yaml_model

EFFICIENCIES_FILE = Path(__file__).parent / "data" / "efficiencies.yaml"


class _Kernels(StrictModel):
    gemm: Sourced[float]
    grouped_gemm: Sourced[float]
    attention_forward: Sourced[float]
    attention_backward: Sourced[float]
    memory: Sourced[float]


class _Launch(StrictModel):
    attention: Sourced[float]
    dense_mlp: Sourced[float]
    moe: Sourced[float]
    moe_per_local_expert: Sourced[float]


class _EfficienciesFile(StrictModel):
    kernels: dict[str, _Kernels]
    launch_milliseconds: _Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What kernels reach on a GPU, in FLOP/s and bytes/s."""

    gemm: float
    grouped_gemm: float
    attention_forward: float
    attention_backward: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSeconds:
    """Host time to launch the forward pass of a part of a layer."""

    attention: float
    dense_mlp: float
    moe: float
    moe_per_local_expert: float


@cache
def _file() -> _EfficienciesFile:
    return load_yaml_model(EFFICIENCIES_FILE, _EfficienciesFile)


def _kernels(gpu: Gpu) -> _Kernels:
    capability = ".".join(str(part) for part in gpu.compute_capability)
    kernels = _file().kernels
    return kernels.get(capability, kernels["default"])


def rates(gpu: Gpu, calibration: Calibration = AS_PREDICTED) -> Rates:
    """Rates of the kernels of a GPU."""
    kernels, flops = _kernels(gpu), gpu.bf16_flops_per_second / calibration.gemm
    return Rates(
        gemm=kernels.gemm.value * flops,
        grouped_gemm=kernels.grouped_gemm.value * flops,
        attention_forward=kernels.attention_forward.value * flops,
        attention_backward=kernels.attention_backward.value * flops,
        memory=kernels.memory.value * gpu.hbm_bandwidth_bytes_per_second / calibration.memory,
    )


def launch_seconds(calibration: Calibration = AS_PREDICTED) -> LaunchSeconds:
    """Launch times of the host that was measured; those of others are known by calibration only."""
    launch, seconds = _file().launch_milliseconds, MILLI * calibration.launch
    return LaunchSeconds(
        attention=launch.attention.value * seconds,
        dense_mlp=launch.dense_mlp.value * seconds,
        moe=launch.moe.value * seconds,
        moe_per_local_expert=launch.moe_per_local_expert.value * seconds,
    )


def efficiency_assumptions(gpu: Gpu) -> tuple[Assumption, ...]:
    """The efficiencies of a GPU that nobody measured."""
    kernels = _kernels(gpu)
    return tuple(
        Assumption(
            id=f"efficiency.{name}",
            value=entry.value,
            unit="fraction of peak",
            source=entry.source,
        )
        for name in type(kernels).model_fields
        if (entry := getattr(kernels, name)).assumed
    )
