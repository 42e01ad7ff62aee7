"""Mistakes of a user with `--set`, and what must be said of them."""

from mistakes import Mistake, of_check, of_example

SETTING_MISTAKES: dict[str, Mistake] = {
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
}
