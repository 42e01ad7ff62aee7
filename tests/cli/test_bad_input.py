"""Every mistake of a user ends in one clear line with the nearest fix, and writes nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from console import EXAMPLE, Ran, plan
from mistakes import Mistake, of_check, of_example
from setting_mistakes import SETTING_MISTAKES

from planner.model_files import MODELS_FOLDER

SCRIPTS = ("--model-path", "/data/model", "--dataset", "/data/train.jsonl")


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
    **SETTING_MISTAKES,
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
    more = ("--gpus", "64", "--nodes", "8", "--global-batch-size", "64")
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
