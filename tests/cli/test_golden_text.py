"""What a person reads: golden texts at the full width and at 80 columns."""

import pytest
from console import EXAMPLE, plan
from golden_files import check_golden, check_screen

COMMANDS: dict[str, tuple[str, ...]] = {
    "search": EXAMPLE,
    "search-lora": (*EXAMPLE, "--tuner-type", "lora", "--top", "3"),
    "search-256": (
        *("--gpus", "256", "--nodes", "32", "--model", "DeepSeek-V3"),
        *("--global-batch-size", "256", "--top", "8"),
    ),
    "check": ("check", *EXAMPLE, "--tp", "1", "--pp", "2", "--ep", "8"),
    "check-illegal": ("check", *EXAMPLE, "--tp", "3", "--pp", "2", "--ep", "8"),
    "check-set": (
        *("check", *EXAMPLE, "--pp", "4", "--ep", "4", "--task", "pt"),
        *("--set", "pipeline_model_parallel_layout=E,t*16|t*16|t*16|L", "--set", "lr=2e-5"),
        *("--set", "optimizer_cpu_offload=true", "--set", "fp8_format=hybrid"),
        *("--set", "use_precision_aware_optimizer=true", "--set", "report_to=tensorboard,wandb"),
    ),
    "check-placement": ("check", *EXAMPLE, "--ep", "16", "--recompute", "full"),
}
NOTHING_FITS = ("--gpus", "16", "--nodes", "2", "--model", "Qwen3-235B-A22B")


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_golden_text(name: str, columns: int) -> None:
    check_screen(name, COMMANDS[name], columns)


def test_golden_proof_that_nothing_fits() -> None:
    ran = plan(*NOTHING_FITS)
    assert (ran.status, ran.out) == (3, "")
    check_golden("cli/nothing-fits.txt", ran.err)


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 79, 200])
@pytest.mark.parametrize("name", ["search", "check-illegal"])
def test_every_terminal_gets_an_answer(name: str, columns: int) -> None:
    ran = plan(*COMMANDS[name], columns=columns)
    assert (ran.status, ran.err) == (0, "")


def test_at_80_columns_the_table_loses_columns_but_no_plan() -> None:
    wide, narrow = (plan(*EXAMPLE, columns=columns).out for columns in (100, 80))

    def plans(text: str) -> list[list[str]]:
        rows = [line.split() for line in text.partition("Shown")[0].splitlines()]
        return [row[:12] for row in rows if row and row[0].lstrip(">").isdecimal() and len(row) > 9]

    assert plans(wide) == plans(narrow) != []
    assert "crosses" in wide and "crosses" not in narrow


def test_a_check_gives_no_reason_that_is_not_its_own() -> None:
    asked = plan("check", *EXAMPLE, "--pp", "2", "--ep", "8", "--recompute", "full").out
    assert "recompute full, as asked for" in asked
    exceeds = plan("check", *EXAMPLE).out
    assert "exceeds" in exceeds and "cheapest choice that fits" not in exceeds
    modules = plan(
        "check", *EXAMPLE, "--pp", "2", "--ep", "8", "--recompute-modules", "moe_act"
    ).out
    assert "recompute moe_act, as asked for" in modules
