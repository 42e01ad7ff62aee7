"""The emitted scripts, unchanged, on two CPU processes: convert, train two steps, convert back."""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nvlink_rows import speakers

from launch.run_folder import write_run_folder
from launch.training_log import read_steps
from planner.layout import Layout, Recompute
from planner.model_files import resolve_model
from planner.named_split import named_split
from planner.plan import Plan
from planner.recipe import load_recipe
from planner.run import Machines, Run
from planner.settings import read_settings, with_settings
from planner.site import Site
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.workload import Task, TunerType, Workload
from stack import models
from stack.emitted import run_script
from stack.layouts import even, split

pytestmark = [pytest.mark.stack, pytest.mark.slow]

STEPS = 2
GIB = 2**30

# Names of `planner.communicators` by those of megatron-core and torch.
GROUP_NAMES = {
    "default_pg": "world",
    "INTRA_DISTRIBUTED_OPTIMIZER_INSTANCE_GROUP": "distributed_optimizer",
    "TENSOR_MODEL_PARALLEL_GROUP": "tp",
    "DATA_PARALLEL_GROUP_WITH_CP": "dp_cp",
    "PIPELINE_MODEL_PARALLEL_GROUP": "pp",
    "MODEL_PARALLEL_GROUP": "tp_pp",
    "TENSOR_AND_CONTEXT_PARALLEL_GROUP": "tp_cp",
    "DATA_PARALLEL_GROUP": "dp",
    "EXPERT_TENSOR_AND_MODEL_PARALLEL_GROUP": "etp_ep",
    "EXPERT_MODEL_PARALLEL_GROUP": "ep",
    "EXPERT_DATA_PARALLEL_GROUP": "edp",
    "EP-PP-GROUP": "ep_pp",
}


# What a continued pretraining sets: stages of its own for the embedding and the loss, replicated
# states of SGD, and arguments that are handed on.
SET = (
    "pipeline_model_parallel_layout=Etttt|L",
    "optimizer=sgd",
    "use_distributed_optimizer=false",
    "moe_expert_capacity_factor=2",
    "weight_decay=0.05",
    "report_to=tensorboard",
    "lr=0.02",
)


SELECTIVE = Recompute(granularity="selective", modules=("layernorm", "moe_act"))


def tiny_run(
    model_folder: Path,
    dataset: Path,
    task: Task = Task.SFT,
    words: tuple[str, ...] = (),
    recompute: Recompute = SELECTIVE,
) -> Run:
    """Two steps of full fine-tuning of the tiny model under EP2, or PP2 where a split is set."""
    model = resolve_model(str(model_folder))
    workload = Workload(seq_length=128, global_batch_size=4, task=task)
    settings = read_settings(words)
    parallel: dict[str, Any] = {"ep": 2, "split": split(even(model.num_layers, 1))}
    if settings.names_split:
        parallel = {"pp": 2, "split": named_split(settings, model.num_layers, 2, 1)}
    layout = Layout(
        world_size=2,
        global_batch_size=4,
        recompute=recompute,
        **parallel,
    )
    recipe = replace(
        load_recipe(TunerType.FULL),
        train_iters=STEPS,
        save_steps=STEPS,
        dataset_num_proc=1,
        dataloader_num_workers=1,
    )
    recipe, stack = with_settings(recipe, settings), load_stack()
    args = training_args(model, layout, workload, stack, recipe, settings)
    return Run(
        plan=Plan(layout=layout, args=args),
        recipe=recipe,
        site=Site(model_path=str(model_folder), dataset=(str(dataset),)),
        model=model,
        machines=Machines(
            num_nodes=1, gpus_per_node=2, gpu_name="H100-SXM-80GB", gpu_memory_bytes=80 * GIB
        ),
        stack=stack,
        task=task,
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """The folders of the model and of its run, after all scripts ran, and what train.sh printed."""

    model: Path
    run: Path
    log: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run from its first script to its last, with a conversion back before training."""
    root = tmp_path_factory.mktemp("end-to-end")
    model = models.write_tiny_qwen3_moe(root / "tiny-qwen3-moe")
    dataset = models.write_toy_dataset(root / "toy.jsonl")
    folder = root / "run"
    write_run_folder(tiny_run(model, dataset), folder)
    run_script(folder / "convert_hf_to_mcore.sh")
    with ThreadPoolExecutor() as pool:  # both only read what was converted
        back = pool.submit(run_script, folder / "convert_mcore_to_hf.sh", "mcore")
        log = run_script(folder / "train.sh", groups=root)
        back.result()
    run_script(folder / "convert_mcore_to_hf.sh")
    return Trained(model, folder, log)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of `megatron pt` with settings, converted and trained."""
    root = tmp_path_factory.mktemp("pretraining")
    model = models.write_tiny_qwen3_moe(root / "tiny-qwen3-moe")
    dataset = models.write_toy_dataset(root / "toy.jsonl")
    folder = root / "run"
    write_run_folder(tiny_run(model, dataset, Task.PT, SET), folder)
    run_script(folder / "convert_hf_to_mcore.sh")
    return Trained(model, folder, run_script(folder / "train.sh"))


def _weights(folder: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def _bits(tensor: Any) -> tuple[Any, ...]:
    """What a tensor is, bit by bit."""
    import torch

    return (tensor.dtype, tensor.shape, tensor.view(torch.uint8).numpy().tobytes())


def test_without_training_the_weights_come_back_to_the_last_bit(trained: Trained) -> None:
    original, returned = _weights(trained.model), _weights(trained.run / "hf" / "mcore")
    assert returned.keys() == original.keys()
    different = [name for name in original if _bits(original[name]) != _bits(returned[name])]

    assert different == []


def test_training_takes_its_steps_and_the_loss_falls(trained: Trained) -> None:
    losses = [float(loss) for loss in re.findall(r"'loss': ([0-9.]+)", trained.log)]

    assert len(losses) == STEPS
    assert losses[1] < losses[0]


def test_the_log_of_a_run_is_read_as_it_is_written_and_as_it_is_printed(trained: Trained) -> None:
    written = (trained.run / "output" / "logging.jsonl").read_text().splitlines()
    steps = list(read_steps(written))

    assert [step.iteration for step in steps] == [1, 2]
    assert list(read_steps(trained.log.splitlines())) == steps


def test_pretraining_with_settings_takes_its_steps_and_the_loss_falls(pretrained: Trained) -> None:
    losses = [float(loss) for loss in re.findall(r"'loss': ([0-9.]+)", pretrained.log)]

    assert "megatron pt train.yaml" in (pretrained.run / "train.yaml").read_text()
    assert len(losses) == STEPS
    assert losses[1] < losses[0]


def test_ranks_speak_in_the_groups_whose_communicators_are_counted(trained: Trained) -> None:
    """By name and size; of EP only messages."""
    layout = tiny_run(trained.model, trained.model).plan.layout
    counted = replace(speakers(layout), saves=True).stage(0, interleaved=False)
    expected = {made.group: made.place.size for made in counted}
    del expected["ep_pp"]  # it writes no weights of Hugging Face's form as it saves
    for rank in range(2):
        page = trained.run.parent / f"groups{rank}.json"
        spoken = {group["name"]: group for group in json.loads(page.read_text(encoding="utf-8"))}
        assert {GROUP_NAMES[name]: len(each["ranks"]) for name, each in spoken.items()} == expected
        assert set(spoken["EXPERT_MODEL_PARALLEL_GROUP"]["calls"]) == {"all_to_all_single"}


def test_what_training_changed_is_exported_in_the_models_own_format(trained: Trained) -> None:
    """The same tensors with other values, and a config.json that says the same model."""
    exported = trained.run / "hf" / f"checkpoint-{STEPS}"
    original, new = _weights(trained.model), _weights(exported)
    shapes = [{name: w.shape for name, w in weights.items()} for weights in (original, new)]
    changed = [name for name in original if not original[name].equal(new[name])]

    assert shapes[0] == shapes[1]
    assert len(changed) > len(original) / 2
    was, is_now = resolve_model(str(trained.model)), resolve_model(str(exported))
    assert replace(is_now, name=was.name, origin=was.origin) == was
    assert (exported / "tokenizer.json").exists()
