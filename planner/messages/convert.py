"""Sentences about converted checkpoints: what is wrong with one, and with which tensor or file."""

from planner.messages.message import Message

_AGAIN = "convert again into a new folder"
_FETCH = "fetch or convert the file again: it was not written to its end"

MESSAGES: dict[str, Message] = {
    "convert.no_folder": Message("{path} is no folder", "give the folder of a checkpoint"),
    "convert.no_weights": Message(
        "{path} holds no weights: no *.safetensors, and nothing of Megatron-Core's",
        "give the folder that holds model.safetensors, or latest_checkpointed_iteration.txt",
    ),
    "convert.no_config": Message("{path} cannot be read: {reason}", "copy it from the model"),
    "convert.needs": Message("{flag} needs {needs}", "give both, or leave {flag} out"),
    "convert.only_hf": Message(
        "{flag} is for checkpoints in Hugging Face's format: {path} is one of Megatron-Core",
        "convert it back first: moe-convert mcore-to-hf",
    ),
    "convert.only_model": Message(
        "{flag} is for whole models: {path} is an adapter",
        "give the merged model, and the adapter by --adapter",
    ),
    "convert.one_of": Message("{flag} and {other} exclude each other", "give one of the two"),
    "convert.target_exists": Message("{path} exists already", "give another folder"),
    "convert.target_unwritable": Message("{path} cannot be written: {reason}", "give another"),
    "convert.layers": Message(
        "{model} has {number} layers: --layers {layers} is not fewer, or has no sparse one",
        "give {least} to {most}",
    ),
    "convert.no_names": Message(
        "the tensors of a {model_type} are not known by name", "known are: {known}"
    ),
    "convert.damaged": Message("{path} cannot be copied from: {reason}", "verify it first"),
    # files
    "convert.unreadable": Message("{file} cannot be read: {reason}", ""),
    "convert.bad_header": Message("{file} is not a safetensors file: {reason}", _FETCH),
    "convert.cut_short": Message(
        "{file} is cut short: it should have {promised} bytes and has {actual}", _FETCH
    ),
    "convert.no_index": Message(
        "there are {files} files of weights and no model.safetensors.index.json", _AGAIN
    ),
    "convert.bad_index": Message(
        "model.safetensors.index.json is not the index of a model: {reason}", _AGAIN
    ),
    "convert.missing_file": Message("{file} is named by the index and is not there", _FETCH),
    "convert.empty": Message("there is no tensor in {file}", _AGAIN),
    "convert.stray_file": Message(
        "{file} holds weights and the index does not name it", "remove it if it is of another run"
    ),
    "convert.index_lies": Message(
        "the index says that {tensor} is in {file}, and it is not", _AGAIN
    ),
    "convert.not_in_index": Message(
        "{tensor} is in {file} and the index does not say so: nothing will load it", _AGAIN
    ),
    "convert.bad_file": Message("{file} cannot be used: {reason}", _FETCH),
    "convert.bad_config": Message(
        "config.json describes no model: {reason}", "copy it from the model that the weights are of"
    ),
    "convert.not_carried": Message("{file} of the source is not here", "copy it from the source"),
    "convert.no_tokenizer": Message(
        "there is no tokenizer: none of {wanted}", "copy the tokenizer's files from the model"
    ),
    "convert.other_vocabulary": Message(
        "tokenizer.json has other tokens than that of {source}", "copy it from the source"
    ),
    "convert.no_chat_template": Message(
        "the source {source} has a chat template, and this has none", "copy it from the source"
    ),
    "convert.other_config": Message(
        "config.json describes another model than the source's: {field} is {here}, not {there}",
        "copy config.json from the model that the weights are of",
    ),
    # tensors
    "convert.missing_tensor": Message("{tensor} {shape} is missing", _AGAIN),
    "convert.missing_mtp": Message(
        "config.json names {layers} layers for multi-token prediction, and they are not here"
        " ({tensors} tensors)",
        "train or convert with --mtp-num-layers {layers}, or carry them over from the model",
    ),
    "convert.stray_tensor": Message(
        "{tensor} {shape} is no part of the {model_type} that config.json describes",
        "check that config.json belongs to these weights",
    ),
    "convert.shape": Message(
        "{tensor} is {shape}, and config.json wants {wanted}",
        "check that config.json belongs to these weights",
    ),
    "convert.dtype": Message("{tensor} is {dtype}, and config.json wants {wanted}", _AGAIN),
    "convert.not_finite": Message(
        "{tensor} holds {nan} NaN and {inf} infinite of {elements} numbers",
        "take an earlier checkpoint, or convert again if the source has none",
    ),
    "convert.all_zero": Message("{tensor} is all zeros", _AGAIN),
    "convert.at_start": Message(
        "{tensor} looks as if it was never loaded: it is drawn from the distribution that models"
        " start from, and most others are not",
        "compare with the source: --source FOLDER",
    ),
    "convert.never_trained": Message(
        "{drawn} of {matrices} matrices are drawn from the distribution that models start from:"
        " this model was never trained, or nothing was loaded",
        "compare with the source: --source FOLDER",
    ),
    "convert.not_tied": Message(
        "{tensor} must equal {other}, and differs in {different} of {elements} numbers", _AGAIN
    ),
    # compared with a source
    "convert.bad_source": Message(
        "the source {source} is damaged itself: {reason}", "fetch it again, or give another"
    ),
    "convert.not_of_source": Message("{tensor} of the source is missing", _AGAIN),
    "convert.more_than_source": Message("{tensor} is not in the source", ""),
    "convert.shape_of_source": Message("{tensor} is {shape}, in the source {wanted}", _AGAIN),
    "convert.differs": Message(
        "{tensor} differs from the source in {different} of {elements} numbers, by {largest} at"
        " most",
        "after training, compare with --trained",
    ),
    "convert.swapped": Message("{tensor} holds what the source has as {other}", _AGAIN),
    "convert.unrelated": Message(
        "{tensor} has nothing to do with the source's (correlation {correlation:.2f}): it was not"
        " loaded, or garbled",
        _AGAIN,
    ),
    "convert.nothing_trained": Message(
        "all {tensors} tensors equal the source to the last bit: nothing was trained",
        "check which checkpoint was converted",
    ),
    # adapters
    "convert.no_module": Message(
        "the adapter changes {module}, which the source does not have", "check --source"
    ),
    "convert.adapter_kind": Message(
        "{path} is not an adapter that can be checked: its {field} is of another kind",
        "give a LoRA adapter of one rank and one alpha",
    ),
    "convert.no_product": Message(
        "the adapter of {module} is {one} and {other}: the two have no product", _AGAIN
    ),
    "convert.no_pairs": Message("the adapter holds no pair of lora_A and lora_B", _AGAIN),
    "convert.adapter_not_trained": Message(
        "all {matrices} second matrices of the adapter are zeros, as they start: nothing was"
        " trained",
        "check which checkpoint was converted",
    ),
    "convert.half_adapter": Message("the adapter has {there} and not {missing}", _AGAIN),
    "convert.adapter_shape": Message(
        "the adapter of {module} makes {shape}, and the weight is {wanted}", "check --source"
    ),
    "convert.not_merged": Message(
        "{tensor}: merged - base is not the adapter's product: {different} of {elements} numbers"
        " are off by more than rounding, by {largest:.3g} at most",
        "merge again with the adapter and the base that belong together",
    ),
    "convert.changed_without_adapter": Message(
        "{tensor} differs from the base, and the adapter does not change it", _AGAIN
    ),
    # Megatron-Core's format
    "convert.torn": Message(
        "the checkpoint is torn: {file} is missing", "take an earlier one: it was not finished"
    ),
    "convert.other_backend": Message("it was written as {backend!r}, not as torch_dist", ""),
    "convert.not_covered": Message(
        "only {covered} of {elements} numbers of {tensor} were written", _AGAIN
    ),
    "convert.outside": Message("parts of {tensor} lie outside of its shape {shape}", _AGAIN),
    "convert.overlap": Message(
        "parts of {tensor} overlap, so that others of its numbers were not written", _AGAIN
    ),
    "convert.not_stored": Message("the part of {tensor} that begins at {begin} is nowhere", _AGAIN),
    "convert.bad_archive": Message("{tensor} in {file} cannot be read: {reason}", _FETCH),
    "convert.other_count": Message(
        "it has {parameters} parameters, and the {model_type} of {source} has {wanted}",
        "check that the checkpoint is of this model",
    ),
}
