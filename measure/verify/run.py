"""ms-swift's own arguments and trainer of a row, with random weights and no data set."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo
from megatron.core.rerun_state_machine import get_rerun_state_machine
from swift.megatron.arguments import MegatronSftArguments
from swift.megatron.trainers import MegatronTrainer
from swift.megatron.utils import prepare_mcore_model
from swift.utils.utils import _patch_get_type_hints
from transformers import AutoConfig, HfArgumentParser

from measure.verify import peers, routing
from measure.verify.packs import packs
from measure.verify.row import Row

# Rows of many shapes run in one process: past its limit dynamo would stop compiling, and what is
# not compiled takes other memory.
torch._dynamo.config.recompile_limit = 10_000
torch._dynamo.config.accumulated_recompile_limit = 100_000
WEIGHT_STD = 0.02  # the usual initializer_range of config.json


def parse(row: Row, folder: Path) -> Any:
    """The arguments after ms-swift's post-init, which makes Megatron's groups and random states.

    The world must have been entered. `folder` has the model's config.json. Raises what ms-swift
    raises, and SystemExit where its parser refuses.
    """
    with _patch_get_type_hints():
        parser = HfArgumentParser([MegatronSftArguments])
    (arguments,) = parser.parse_args_into_dataclasses(
        row.training_argv(folder, can_bias=routing.can_bias())
    )
    arguments.callbacks = []  # they log, save and evaluate
    return arguments


class RankTrainer(MegatronTrainer):  # type: ignore[misc]  # of a package without types
    """ms-swift's trainer of one rank; weights are made up where it would load them."""

    def _prepare_peft_model(self, models: list[Any]) -> list[Any]:
        for model in models:
            _make_up_weights(model)
        return [prepare_mcore_model(self.args, model) for model in models]


def build(arguments: Any) -> Any:
    """The trainer with its model chunks, Megatron's DDP around them, and the optimizer."""
    template = SimpleNamespace(
        config=AutoConfig.from_pretrained(arguments.model_dir),
        padding_free=arguments.padding_free,
        data_collator=list,  # batches are made elsewhere
    )
    trainer = RankTrainer(arguments, template)
    trainer.setup_model_training()
    # Gradients of made-up data may be anything; that they were looked at stays.
    get_rerun_state_machine().validate_result = lambda *_, **__: None
    return trainer


def feed(row: Row, trainer: Any) -> Any:
    """What the trainer reads its micro-batches from: an iterator, or one for each model chunk."""
    arguments, config = trainer.args, trainer.config
    tokens = arguments.micro_batch_size * arguments.seq_length // arguments.context_parallel_size
    if arguments.sequence_parallel:
        tokens //= arguments.tensor_model_parallel_size
    peers.expect_activations((tokens, 1, config.hidden_size))

    def one() -> Iterator[dict[str, Any]]:
        return packs(arguments, config.padded_vocab_size, row.documents_per_pack)

    chunks = arguments.virtual_pipeline_model_parallel_size
    return one() if chunks is None else [one() for _ in range(chunks)]


@torch.no_grad()
def _make_up_weights(model: Any) -> None:
    """Finite values in place: matrices at random, scales one, biases zero."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, WEIGHT_STD)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
