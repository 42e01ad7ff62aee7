"""What measures a rank: its stand-in for apex's kernel, and what it says of the machine."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from measure.verify import fused_gradients, machine


def test_the_stand_in_can_be_imported_and_has_the_kernels_that_megatron_core_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (fused_gradients.KERNEL, "apex"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    fused_gradients.stand_in()
    try:
        kernel = importlib.import_module(fused_gradients.KERNEL)
        assert importlib.util.find_spec("apex") is not None
        assert all(callable(getattr(kernel, name)) for name in fused_gradients.NAMES)
    finally:
        for name in (fused_gradients.KERNEL, "apex"):
            sys.modules.pop(name, None)


def test_megatron_core_calls_no_other_kernels() -> None:
    spec = importlib.util.find_spec("megatron.core")
    assert spec is not None and spec.submodule_search_locations
    layers = Path(spec.submodule_search_locations[0]) / "tensor_parallel" / "layers.py"
    text = layers.read_text(encoding="utf-8")

    called = {word.split("(")[0] for word in text.split(f"{fused_gradients.KERNEL}.")[1:]}
    assert called == set(fused_gradients.NAMES)


def test_the_host_says_how_many_cpus_may_be_used() -> None:
    assert machine.host()["host_cpus"] == len(os.sched_getaffinity(0))


def _program(folder: Path, name: str, text: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("sleep 0.1; echo 1980 MHz, 2619 MHz, 1980 MHz, 453.88 W, 58, 580.159.04", "1980 MHz"),
        ("echo no devices", None),
        ("true", None),
    ],
)
def test_what_the_gpu_does_is_asked_while_steps_go_on(
    says: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path, "nvidia-smi", says)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    steps: list[None] = []

    found = machine.gpu_while(lambda: steps.append(None))

    assert (found and found["clocks.sm"]) == expected
    assert steps or expected is None


def test_without_nvidia_smi_nothing_is_said_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert machine.gpu_while(lambda: None) is None
