"""Whatever is typed, `plan` answers, or says in one line why not."""

from console import plan
from hypothesis import given, settings
from hypothesis import strategies as st

# Wise and foolish values of every flag. Clusters are small, so that a search takes a moment.
NUMBERS = ["1", "2", "3", "4", "8", "0", "-1", "7", "64", "1e3", "9" * 30, "", "x", "0x10", "1.5"]
LAYOUTS = ["E|t*48|L", "Et*14|t*14L", "(t*9|)*99999", "t*" + "9" * 5000, "E((t|)*2)*3L", "", "|||"]
VALUES: dict[str, list[str]] = {
    "--gpus": ["1", "2", "4", "6", "8", "0", "-8", "x", "", "9" * 30],
    "--nodes": ["1", "2", "3", "0", "-1", "9" * 30, "one"],
    "--model": [
        "Qwen2.5-7B",
        "qwen3-30b-a3b",
        "Qwen/Qwen3-30B-A3B",
        "",
        ".",
        "/",
        "a\0b",
        "x" * 300,
    ],
    "--topology": ["h100-8x-ib", "H20-8x-eRDMA", "", "/", "a\nb", "none.yaml", "h100"],
    "--stack": [
        *("ms-swift-4.6", "ms-swift-3.12", "gpu-kit-2026-11", "", "4.6", "\x1b[31m"),
        *(
            "ms-swift-4.1+megatron-core-0.19",
            "ms-swift-4.6+",
            "+",
            "ms-swift-4.0+megatron-core-9.9.9",
        ),
    ],
    "--seq-length": ["8192", "4095", "1", "16777216", "0", "8k"],
    "--micro-batch-size": NUMBERS,
    "--global-batch-size": [*NUMBERS, "16", "1048576"],
    "--tuner-type": ["full", "lora", "FULL", "", "qlora"],
    "--lora-rank": NUMBERS,
    "--recompute": ["auto", "none", "selective", "full", "", "moe_act", "Full"],
    "--routing-imbalance": ["1", "1.5", "1024", "0.99", "nan", "inf", "-inf", "1e400", "x"],
    "--mean-document-tokens": NUMBERS,
    "--mtp-num-layers": ["0", "1", "-1", "64", "9" * 30],
    "--placement": ["nvlink", "any", "ANY", ""],
    "--task": ["sft", "pt", "rlhf"],
    "--set": [
        *("", "=", "x", "lr", "lr=", "lr=1e-5", "lr=nan", "lr=1e400", "--lr=1e-4", "a\nb=1"),
        *("optimizer=sgd", "optimizer=muon", "use_distributed_optimizer=false", "fp16=true"),
        *("optimizer_cpu_offload=true", "optimizer_offload_fraction=0.5", "exp_avg_dtype=fp8"),
        *("use_precision_aware_optimizer=True", "main_grads_dtype=bf16", "wandb_project=\x1b[31m"),
        *("fp8_format=hybrid", "fp8_recipe=mxfp8", "fp8_recipe=blockwise", "target_modules=all"),
        *("target_modules=linear_qkv", "moe_expert_capacity_factor=1.5", "lora_dropout=0"),
        *("decoder_first_pipeline_num_layers=3", "decoder_last_pipeline_num_layers=60"),
        *("account_for_loss_in_pipeline_split=true", "microbatch_group_size_per_vp_stage=4"),
        *(f"pipeline_model_parallel_layout={text}" for text in LAYOUTS),
    ],
}
OF_SEARCH: dict[str, list[str]] = {
    **VALUES,
    "--top": ["1", "1000", "0", "-1", "x"],
    "--load": ["mcore", "direct", "hf"],
    "--recipe": ["sft", "SFT", "", "none.yaml", "/"],
    "--site": ["/", "none.yaml", ""],
    "--output-dir": ["/proc/none", "", "/"],
}
OF_CHECK: dict[str, list[str]] = {
    **VALUES,
    **{f"--{name}": NUMBERS for name in ("tp", "pp", "ep", "etp", "cp", "vpp")},
    "--recompute-modules": ["moe_act", "moe_act,layernorm", "", ",", "mla_up_proj", "mlp,x"],
}


def command_lines(flags: dict[str, list[str]]) -> st.SearchStrategy[list[str]]:
    """Flags with values of any kind, mostly with the two that are needed."""
    pair = st.sampled_from(sorted(flags)).flatmap(
        lambda flag: st.sampled_from(flags[flag]).map(lambda value: [flag, value])
    )
    needed = st.sampled_from(
        [["--gpus", "8", "--model", "Qwen3-30B-A3B"], ["--gpus", "4", "--model", "Qwen2.5-7B"], []]
    )
    odd = st.sampled_from(
        [["--json"], ["--"], ["-x"], ["--tp"], ["check"], ["\udcff"], ["--gpus="]]
    )
    words = st.lists(st.one_of(pair, pair, pair, odd), max_size=5)
    return st.tuples(needed, words).map(
        lambda both: [*both[0], *(word for each in both[1] for word in each)]
    )


def answers(words: list[str]) -> None:
    """Run a command line; anything but an answer or one line escapes as an exception."""
    ran = plan(*words)
    assert ran.status in (0, 2, 3), ran
    if "--json" in words and ran.status:
        assert ran.err == "" and set(ran.answer) == {"format_version", "error"}
    elif ran.status == 2:
        assert ran.out == "" and ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran
    elif ran.status == 0:
        assert ran.err == "" and ran.out
    assert "\x1b" not in ran.err + ran.out


@settings(max_examples=150)
@given(command_lines(OF_SEARCH))
def test_any_search_is_answered(words: list[str]) -> None:
    answers(words)


@settings(max_examples=250)
@given(command_lines(OF_CHECK))
def test_any_check_is_answered(words: list[str]) -> None:
    answers(["check", *words])
