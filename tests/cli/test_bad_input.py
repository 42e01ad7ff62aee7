"""Every mistake of a user ends in one clear line with the nearest fix, and writes nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from console import EXAMPLE, Ran, plan

from planner.model_files import MODELS_FOLDER

SCRIPTS = ("--model-path", "/data/model", "--dataset", "/data/train.jsonl")


@dataclass(frozen=True, slots=True)
class Mistake:
    """Words of a command line; parts of what must be said, the nearest fix among them."""

    words: tuple[str, ...]
    says: tuple[str, ...]


def of_example(*words: str, says: tuple[str, ...]) -> Mistake:
    return Mistake((*EXAMPLE, *words), says)


def of_check(*words: str, says: tuple[str, ...]) -> Mistake:
    return Mistake(("check", *EXAMPLE, *words), says)


MISTAKES: dict[str, Mistake] = {
    # -- nothing to go by --------------------------------------------------------------------------
    "no words": Mistake((), ("--gpus is missing", "plan --gpus 16 --nodes 2 --model")),
    "no model": Mistake(("--gpus", "16"), ("--model is missing",)),
    "a check of nothing": Mistake(("check",), ("missing option '--gpus'", "plan check --help")),
    # -- names -------------------------------------------------------------------------------------
    "an unknown model": Mistake(
        ("--gpus", "16", "--model", "Qwen3-30B-A4B"),
        ("'Qwen3-30B-A4B'", "nearest is Qwen3-30B-A3B"),
    ),
    "an empty model": Mistake(("--gpus", "16", "--model", ""), ("model ''", "known: ")),
    "a model of two lines": Mistake(("--gpus", "16", "--model", "a\nb"), ("model 'a\\nb'",)),
    "an unknown topology": of_example(
        "--topology", "h200", says=("topology 'h200' is not known", "the nearest is h200-8x-ib")
    ),
    "a topology of two lines": of_example(
        "--topology", "a\nb", says=("'a\\nb'", "plan topology list shows all")
    ),
    "an unknown stack": of_example(
        "--stack", "ms-swift-4.7", says=("'ms-swift-4.7'", "the nearest is ms-swift-4.6")
    ),
    "an unknown recipe": of_example("--recipe", "stf", says=("'stf'", "the nearest is sft")),
    "a flag of 3.x": of_example(
        "--max_epochs", "3", says=("--num_train_epochs since ms-swift 4.0",)
    ),
    "a flag of 3.x of the opposite sense": of_example(
        "--no-rope-fusion",
        "true",
        says=("--apply_rope_fusion", "opposite sense", "apply_rope_fusion cannot be set"),
    ),
    "a flag of 3.x that plan has": of_example(
        "--train_type", "lora", says=("--tuner_type since ms-swift 4.0", "use --tuner-type")
    ),
    "a flag of 3.x that is gone": of_example(
        "--num_layers",
        "4",
        says=("gone since ms-swift 4.0: the model's config.json", "leave it out"),
    ),
    "a flag of 3.x whose name plan has": of_example(
        "--load", "/ckpt", says=("'/ckpt' is not one of", "--mcore_model since ms-swift 4.0")
    ),
    "a flag of 3.x of a check": of_check(
        "--num_workers",
        "4",
        says=("--dataloader_num_workers", "--set dataloader_num_workers=VALUE"),
    ),
    "a flag of ms-swift": of_example(
        "--tensor-model-parallel-size", "2", says=("a flag of ms-swift", "give --tp to plan check")
    ),
    "a flag of ms-swift with its underscore": of_example(
        "--tuner_type", "lora", says=("a flag of ms-swift", "use --tuner-type")
    ),
    "an unknown flag": of_example("--node", "2", says=("no such option: --node", "--nodes")),
    "an unknown command": Mistake(("lint", "train.sh"), ("no such command 'lint'", "plan --help")),
    "an unknown flag of check": of_check("--etpp", "2", says=("--etpp", "--etp")),
    "a search in front of check": Mistake(
        (*EXAMPLE, "check", *EXAMPLE), ("--gpus stands before check", "put it after check")
    ),
    # -- numbers -----------------------------------------------------------------------------------
    "GPUs that do not divide over nodes": Mistake(
        ("--gpus", "15", "--nodes", "2", "--model", "Qwen3-30B-A3B"),
        ("15 GPUs do not divide over 2 nodes", "give 14 or 16 GPUs, or --nodes 3"),
    ),
    "more nodes than GPUs": Mistake(
        ("--gpus", "8", "--nodes", "16", "--model", "Qwen3-30B-A3B"),
        ("8 GPUs do not divide over 16 nodes", "give 16 GPUs, or --nodes 8"),
    ),
    "more GPUs than hosts have": Mistake(
        ("--gpus", "24", "--nodes", "2", "--model", "Qwen3-30B-A3B"),
        ("a host of h100-8x-ib has 8 GPUs, not 12", "use 3 nodes"),
    ),
    "a batch that cannot divide": of_example(
        *("--global-batch-size", "7", "--micro-batch-size", "4"),
        says=("a global batch of 7", "use --global-batch-size 8"),
    ),
    "a batch of check that cannot divide": of_check(
        *("--global-batch-size", "0"), says=("--global-batch-size must be from 1 to",)
    ),
    "no GPUs": Mistake(
        ("--gpus", "0", "--model", "Qwen3-30B-A3B"), ("--gpus must be from 1", "use --gpus 1")
    ),
    "negative nodes": Mistake(
        ("--gpus", "8", "--nodes", "-1", "--model", "Qwen3-30B-A3B"),
        ("--nodes must be from 1 to 16384, not -1", "use --nodes 1"),
    ),
    "too many GPUs": Mistake(
        ("--gpus", "1" + 30 * "0", "--model", "Qwen3-30B-A3B"), ("use --gpus 16384",)
    ),
    "a word for a number": of_example(
        "--seq-length", "8k", says=("'--seq-length'", "integer", "plan --help")
    ),
    "a missing value": of_example("--seq-length", says=("'--seq-length' requires an argument",)),
    "a negative length": of_example("--seq-length", "-5", says=("use --seq-length 1",)),
    "a huge length": of_example("--seq-length", "99999999999", says=("use --seq-length 16777216",)),
    "no plans": of_example(
        "--top", "0", says=("--top must be from 1 to 1000, not 0", "use --top 1")
    ),
    "no imbalance": of_example("--routing-imbalance", "0.5", says=("use --routing-imbalance 1",)),
    "an imbalance that is none": of_example("--routing-imbalance", "nan", says=("not nan",)),
    "an endless imbalance": of_example(
        "--routing-imbalance", "inf", says=("not inf", "use --routing-imbalance 1024")
    ),
    "documents longer than a pack": of_example(
        "--mean-document-tokens", "8193", says=("use --mean-document-tokens 8192",)
    ),
    "a rank without LoRA": of_example("--lora-rank", "8", says=("give --tuner-type lora",)),
    "MTP layers that are not there": of_example(
        "--mtp-num-layers", "1", says=("of Qwen3-30B-A3B holds: 0", "use --mtp-num-layers 0")
    ),
    "a size of nothing": of_check("--tp", "0", says=("--tp must be from 1", "use --tp 1")),
    "a huge size": of_check("--pp", "9" * 40, says=("use --pp 1024",)),
    # -- choices -----------------------------------------------------------------------------------
    "a misspelt recompute": of_example(
        "--recompute", "fulll", says=("--recompute 'fulll'", "the nearest is full")
    ),
    "a misspelt recompute of check": of_check("--recompute", "atuo", says=("the nearest is auto",)),
    "modules of no recomputation": of_check(
        *("--recompute", "full", "--recompute-modules", "mlp"), says=("give --recompute selective",)
    ),
    "a misspelt tuner": of_example("--tuner-type", "lorra", says=("'lorra'", "'full', 'lora'")),
    "a misspelt placement": of_example("--placement", "nv", says=("'nv'", "'nvlink', 'any'")),
    "a misspelt load": of_example("--load", "hf", says=("'hf'", "'mcore', 'direct'")),
    # -- settings ----------------------------------------------------------------------------------
    "a setting of no value": of_example("--set", "lr", says=("NAME=VALUE, not 'lr'",)),
    "a misspelt setting": of_example(
        "--set", "optimzer=sgd", says=("'optimzer'", "the nearest is optimizer")
    ),
    "a setting of no argument": of_example(
        "--set", "zzzzzzzz=1", says=("'zzzzzzzz'", "docs/settings.md")
    ),
    "a planned argument": of_example(
        "--set", "tensor_model_parallel_size=2", says=("is planned, not set", "leave it to", "--tp")
    ),
    "a name of another tool": of_example("--set", "learning_rate=1", says=("give --set lr=VALUE",)),
    "a short name of a size": of_example("--set", "tp=4", says=("or give --tp to plan check",)),
    "a setting of 3.x": of_example(
        "--set", "save=out", says=("--output_dir since", "use --output")
    ),
    "an old name of a planned argument": of_example(
        "--set", "seq_length=4096", says=("with plan, use --seq-length",)
    ),
    "a setting that follows from others": of_example(
        "--set", "gradient_accumulation_steps=2", says=("use --global-batch-size",)
    ),
    "a setting of another engine": of_example("--set", "deepspeed=zero3", says=("as by ZeRO-1",)),
    "a tuner that is not planned": of_example(
        "--tuner-type", "lora_llm", says=("trains the vision tower", "modelled: full, lora")
    ),
    "a word that no parser takes": of_example(
        "--set", "response_prefix=-x", says=("without a - in front, not '-x'",)
    ),
    "a value that the parser does not take": of_example(
        "--set", "padding_side=middle", says=("not one of left, right",)
    ),
    "an item of a list that is no choice": of_example(
        "--set", "report_to=tensorboard,wandbb", says=("not one of tensorboard, wandb, swanlab",)
    ),
    "a bound with a reason": of_example(
        "--set", "moe_expert_capacity_factor=0.01", says=("at least 0.5", "tokens are dropped")
    ),
    "a seed that no stage can have": of_example(
        "--set", "seed=4294967295", says=("at most 4290000000", "every pipeline stage adds 1009")
    ),
    "a beta of Adam that divides by zero": of_example(
        "--set", "adam_beta1=1", says=("at least 0 and below 1",)
    ),
    "a stream without a length": of_example(
        "--set", "streaming=true", says=("without train_iters", "train_iters=STEPS")
    ),
    "a stream whose epochs are saved": of_example(
        *("--set", "streaming=true", "--set", "train_iters=9", "--set", "save_strategy=epoch"),
        says=("with save_strategy=epoch", "save_steps"),
    ),
    "a stream that is evaluated without end": of_example(
        *("--set", "streaming=true", "--set", "train_iters=9", "--set", "val_dataset=v.jsonl"),
        says=("without eval_iters", "eval_iters=STEPS"),
    ),
    "weight decay that moves from nowhere": of_example(
        *("--set", "weight_decay_incr_style=linear", "--set", "end_weight_decay=0.1"),
        says=("without start_weight_decay", "start_weight_decay=VALUE"),
    ),
    "constant weight decay with an end": of_example(
        "--set", "end_weight_decay=0.1", says=("without weight_decay_incr_style", "linear")
    ),
    "texts that are split in fine-tuning": of_example(
        "--set", "truncation_strategy=split", says=("with a chat template", "--task pt")
    ),
    "texts that are split too late": of_example(
        *("--task", "pt", "--set", "truncation_strategy=split", "--set", "lazy_tokenize=true"),
        says=("with lazy_tokenize", "leave out lazy_tokenize"),
    ),
    "an argument of the site": of_example("--set", "model=/m", says=("use --model-path",)),
    "an argument that is not modelled": of_example(
        *("--set", "use_megatron_fsdp=true"),
        says=("use_megatron_fsdp cannot be set: Megatron-FSDP shards", "distributed optimizer"),
    ),
    "an optimizer that is not modelled": of_example(
        "--set", "optimizer=muon", says=("emerging_optimizers", "modelled: adam, sgd")
    ),
    "a misspelt choice": of_example(
        "--set", "fp8_format=hybird", says=("one of e4m3, hybrid", "the nearest is hybrid")
    ),
    "a setting of another type": of_example(
        "--set", "optimizer_cpu_offload=yes", says=("must be true or false, not 'yes'",)
    ),
    "a setting out of bounds": of_example(
        "--set", "save_total_limit=1", says=("save_total_limit must be at least 2, not '1'",)
    ),
    "a setting twice": of_example(
        "--set", "lr=1e-4", "--set", "lr=1e-5", says=("lr is set twice",)
    ),
    "iterations and epochs": of_example(
        *("--set", "train_iters=9", "--set", "num_train_epochs=2"), says=("give one of the two",)
    ),
    "a setting without what it needs": of_example(
        *("--set", "fp8_recipe=blockwise"), says=("does nothing without --set fp8_format=hybrid",)
    ),
    "a setting of LoRA": of_example(
        "--set", "target_modules=linear_qkv", says=("or give --tuner-type lora",)
    ),
    "a setting of experts": Mistake(
        ("--gpus", "8", "--model", "Qwen2.5-7B", "--set", "moe_z_loss_coeff=1e-3"),
        ("moe_z_loss_coeff does nothing without a model with experts",),
    ),
    "a setting that an old release lacks": of_example(
        *("--stack", "ms-swift-3.12", "--set", "cp_comm_type=p2p"),
        says=("ms-swift 3.12.6 has no argument cp_comm_type: it came with 4.4",),
    ),
    "a layout that cannot be read": of_check(
        *("--pp", "2", "--set", "pipeline_model_parallel_layout=Ex|L"), says=("'x' is not one of",)
    ),
    "an endless layout": of_check(
        *("--set", "pipeline_model_parallel_layout=t*99999999999"), says=("repeats", "times")
    ),
    "a module that is not there": of_example(
        *("--tuner-type", "lora", "--set", "target_modules=linear_qvk"),
        says=("'linear_qvk' is not a linear layer", "the nearest is linear_qkv"),
    ),
    "fp8 with LoRA": of_example(
        *("--tuner-type", "lora", "--set", "fp8_format=e4m3"), says=("not planned with LoRA",)
    ),
    "MTP apart from the loss": of_check(
        *("--pp", "2", "--set", "pipeline_model_parallel_layout=Et*48m|L"),
        says=("MTP layers apart from the loss", "in the last chunk"),
    ),
    "settings that no layout keeps": of_example(
        "--set", "optimizer=sgd", says=("all 15615 are not because the distributed optimizer",)
    ),
    "fp8 that the GPU does not have": of_example(
        *("--topology", "a100-8x-ib", "--set", "fp8_format=hybrid"),
        says=("; all ", "does not run on A100"),
    ),
    "a layout of another model": of_example(
        *("--set", "pipeline_model_parallel_layout=Et*6|t*6L"),
        says=("are not because pipeline_model_parallel_layout has 12 t", "write 48 t"),
    ),
    "a misspelt task": of_example("--task", "ptt", says=("'ptt'", "'sft', 'pt'")),
    # -- scripts -----------------------------------------------------------------------------------
    "scripts without a model": of_example(
        *("--output-dir", "run", "--dataset", "d.jsonl"),
        says=("scripts need --model-path", "--model-path FOLDER"),
    ),
    **{
        f"{flag} without a folder for scripts": of_example(
            flag,
            value,
            says=(f"{flag} is only for --output-dir", f"leave out {flag}, or give --output-dir"),
        )
        for flag, value in (
            ("--site", "none.yaml"),
            ("--model-path", "/data/model"),
            ("--dataset", "/data/train.jsonl"),
            ("--load", "mcore"),
        )
    },
    "scripts without data": of_example(
        *("--output-dir", "run", "--model-path", "m"),
        says=("scripts need --dataset", "--dataset FILE"),
    ),
    "scripts without either": of_example(
        "--output-dir", "run", says=("need --model-path and --dataset",)
    ),
    "a model path that is a flag": of_example(
        *("--output-dir", "run", "--model-path=-m", "--dataset", "d"),
        says=("--model-path '-m'", "./-name"),
    ),
    "an output folder that exists": of_example(
        "--output-dir", "taken", *SCRIPTS, says=("taken exists already", "another --output-dir")
    ),
    "an output folder below a file": of_example(
        "--output-dir", "taken/file/run", *SCRIPTS, says=("cannot be written: not a directory",)
    ),
    "an output folder that cannot be made": of_example(
        "--output-dir", "/proc/runs/one", *SCRIPTS, says=("/proc/runs/one cannot be written",)
    ),
    "an output folder with a long name": of_example(
        "--output-dir", "x" * 300, *SCRIPTS, says=("cannot be written: file name too long",)
    ),
    "a site that is not there": of_example(
        "--output-dir",
        "run",
        "--site",
        "sit.yaml",
        says=("sit.yaml cannot be read", "check the path"),
    ),
    # -- files -------------------------------------------------------------------------------------
    "a site with a misspelt key": of_example(
        "--output-dir", "run", "--site", "site.yaml", says=("'workspce'", "nearest is workspace")
    ),
    "a topology with a misspelt key": of_example(
        "--topology", "./hosts.yaml", says=("unknown key 'nvlnk'", "the nearest is nvlink")
    ),
    "a site with a relative path": of_example(
        *("--output-dir", "run", "--site", "relative.yaml"),
        says=("relative.yaml: workspace: must be an absolute path (got 'w')",),
    ),
    "a file that is not YAML": of_example(
        "--topology", "broken.yaml", says=("broken.yaml is not valid YAML", "line 1")
    ),
    "a config.json cut short": Mistake(
        ("--gpus", "16", "--model", "cut"), ("cut/config.json is not valid JSON", "fetch it again")
    ),
    "a config.json without a field": Mistake(
        ("--gpus", "16", "--model", "less.json"), ("num_experts_per_tok is missing",)
    ),
    "a config.json with a key twice": Mistake(
        ("--gpus", "16", "--model", "twice.json"),
        ("twice.json: key 'hidden_size' stands twice", "keep one of the two"),
    ),
    "a config.json of quantized weights": Mistake(
        ("--gpus", "16", "--model", "awq.json"), ("quantized with awq", "in bf16, or in fp8")
    ),
    "a config.json with an unknown field": Mistake(
        ("--gpus", "16", "--model", "more.json"),
        ("'num_expert_per_tok' = 8 is not known", "the nearest is num_experts_per_tok"),
    ),
    "a folder without config.json": Mistake(
        ("--gpus", "16", "--model", "taken"), ("taken/config.json cannot be read",)
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with files that hold mistakes."""
    config = json.loads((MODELS_FOLDER / "Qwen3-30B-A3B.json").read_text())
    less = {key: value for key, value in config.items() if key != "num_experts_per_tok"}
    texts = {
        "taken/file": "",
        "site.yaml": "model_path: /m\ndataset: [d]\nworkspce: /w\n",
        "hosts.yaml": "description: hosts\nnvlnk: {}\n",
        "broken.yaml": "a: [1, 2\n",
        "cut/config.json": json.dumps(config)[:400],
        "less.json": json.dumps(less),
        "twice.json": json.dumps(config)[:-1] + ', "hidden_size": 1}',
        "awq.json": json.dumps({**config, "quantization_config": {"quant_method": "awq"}}),
        "relative.yaml": "model_path: /m\ndataset: [d]\nworkspace: w\n",
        "more.json": json.dumps({**config, "num_expert_per_tok": 8}),
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unchanged(folder: Path, run: Callable[[], Ran]) -> Ran:
    """What a command did, which wrote nothing below the folder."""
    before = sorted(folder.rglob("*"))
    ran = run()
    assert sorted(folder.rglob("*")) == before
    return ran


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_the_nearest_fix(mistake: Mistake, folder: Path) -> None:
    ran = unchanged(folder, lambda: plan(*mistake.words))
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and len(ran.err.splitlines()) == 1
    assert [part for part in mistake.says if part not in ran.err] == []


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_with_json_a_mistake_is_one_object(mistake: Mistake, folder: Path) -> None:
    words = (*mistake.words[:1], "--json", *mistake.words[1:]) if mistake.words else ("--json",)
    if mistake.words[:1] != ("check",):
        words = ("--json", *mistake.words)
    ran = unchanged(folder, lambda: plan(*words))
    assert (ran.status, ran.err) == (2, "")
    error = ran.answer["error"]
    said = " ".join([error["message"], error["fix"]])
    if "stands before" not in said:
        assert [part for part in mistake.says if part not in said] == []


def test_nothing_fits_is_a_proof_with_ways_out(folder: Path) -> None:
    words = ("--gpus", "16", "--nodes", "2", "--model", "Qwen3-235B-A22B", *SCRIPTS)
    ran = unchanged(folder, lambda: plan(*words, "--output-dir", "run"))
    assert (ran.status, ran.out) == (3, "")
    conclusion, proof, *ways_out = ran.err.splitlines()
    assert conclusion.startswith("error: no layout of Qwen3-235B-A22B fits 16 x H100")
    assert proof.startswith("because: Adam's states alone need 12 B x 235.1B parameters / 16 GPUs")
    assert ways_out and all(way.startswith("try: ") for way in ways_out)


def test_every_way_out_works() -> None:
    lora = ("--gpus", "16", "--nodes", "2", "--model", "Qwen3-235B-A22B", "--tuner-type", "lora")
    more = ("--gpus", "56", "--nodes", "7", "--global-batch-size", "56")
    ran = plan("--gpus", "16", "--nodes", "2", "--model", "Qwen3-235B-A22B")
    assert "--tuner-type lora" in ran.err and " ".join(more) in ran.err
    assert plan(*lora).status == 0
    assert plan(*more, "--model", "Qwen3-235B-A22B").status == 0


def test_a_mistake_inside_a_file_is_found_before_the_search_and_nothing_is_half_written(
    folder: Path,
) -> None:
    (folder / "site.yaml").write_text("model_path: /m\ndataset: [d]\nenv: {'1A': x}\n")
    words = (*EXAMPLE, "--output-dir", "run", "--site", "site.yaml")
    ran = unchanged(folder, lambda: plan(*words))
    assert ran.status == 2 and "site.yaml: env.1A" in ran.err


def test_a_hub_that_cannot_be_reached_is_a_lack_of_the_machine(folder: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    variables = {"HF_ENDPOINT": nowhere, "MODELSCOPE_DOMAIN": nowhere, "HOME": str(folder)}
    words = ("--gpus", "8", "--model", "somebody/unknown", "--allow-download")
    ran = unchanged(folder, lambda: plan(*words, env=variables))
    assert (ran.status, ran.out) == (4, "") and len(ran.err.splitlines()) == 1
    assert "config.json of somebody/unknown could not be fetched" in ran.err
    assert plan(*words, "--json", env=variables).answer["error"]["id"] == "model.download_failed"


@pytest.mark.parametrize("name", ["moe-launch", "moe-convert"])
@pytest.mark.parametrize("words", [(), ("--nope",), ("nope", "run")])
def test_the_other_commands_say_what_is_wrong_in_a_line(name: str, words: tuple[str, ...]) -> None:
    command = Path(sys.executable).parent / name
    ran = subprocess.run([command, *words], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ") and len(ran.stderr.splitlines()) == 1
    assert f"{name} --help" in ran.stderr
