"""Every sentence that the program says to a user about a mistake or a choice: an id, a text and a
way out.

Texts are `str.format` templates; `planner.errors` and `planner.plan.Reason` fill in the values.
Lower case, no trailing dot: they are shown after a prefix and can be translated by replacing this
table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """`text` says what is wrong with which values; `fix` says the nearest thing that works (may be
    empty)."""

    text: str
    fix: str = ""


MESSAGES: dict[str, Message] = {
    # -- files that people write -------------------------------------------------------------------
    "file.unreadable": Message(
        "{path} cannot be read: {reason}", "check the path and its permissions"
    ),
    "file.not_yaml": Message(
        "{path} is not valid YAML: {reason}", "mend the file at the place named"
    ),
    "file.not_json": Message(
        "{path} is not valid JSON: {reason}", "the file may be cut short: fetch it again"
    ),
    "file.unknown_key": Message("{path}: unknown key {key!r}", "{suggestion}"),
    "file.missing_key": Message(
        "{path}: {key} is missing", "add it; a file that comes with the planner shows the form"
    ),
    "file.bad_value": Message("{path}: {key}: {reason} (got {value})", "correct this value"),
    # -- config.json of a model -------------------------------------------------------------------
    "config.not_object": Message(
        "{origin}: a config.json is an object, this is a {kind}",
        "give the config.json of the model, or the folder that holds it",
    ),
    "config.unknown_architecture": Message(
        "{origin}: model type {model_type} is not known", "{suggestion}"
    ),
    "config.unknown_field": Message(
        "{origin}: field {field} = {value} is not known for {model_type}; "
        "it may change the number of parameters",
        "{suggestion}; remove the field if the model does not depend on it",
    ),
    "config.missing_field": Message(
        "{origin}: {field} is missing", "the file may be cut short: fetch it again"
    ),
    "config.bad_field": Message(
        "{origin}: {field} must be {expected}, not {value}", "correct this value"
    ),
    "config.unsupported_value": Message(
        "{origin}: {field} = {value} is not what the stack builds: {why}",
        "{field} must be {allowed}, or absent",
    ),
    "config.inconsistent": Message("{origin}: {equation}", "correct one of the two"),
    # -- names ------------------------------------------------------------------------------------
    "model.unknown": Message(
        "model {name} is not bundled, not a folder or file here, and not in the local hub caches",
        "{suggestion}; or give a folder that holds config.json; or allow the "
        "network with --allow-download",
    ),
    "model.download_failed": Message(
        "the config.json of {name} could not be fetched ({reasons})",
        "check the model id and the network, or give a folder that holds config.json",
    ),
    "topology.unknown": Message(
        "topology {name!r} is not known", "{suggestion}; or give the path of a YAML file"
    ),
    "topology.fewer_gpus": Message(
        "a host of {name} has {gpus} GPUs, not {wanted}",
        "use more nodes, or another topology",
    ),
    "stack.unknown": Message(
        "stack {name!r} is not known", "{suggestion}; or give the path of a YAML file"
    ),
    "recipe.unknown": Message(
        "recipe {name!r} is not known", "{suggestion}; or give the path of a YAML file"
    ),
    # -- runs ------------------------------------------------------------------------------------
    "run.needs": Message(
        "scripts need {flags}, which is not given",
        "--model-path FOLDER-OR-HUB-ID --dataset FILE-OR-HUB-ID, as the nodes see them; "
        "or a site file",
    ),
    "run.bad_path": Message(
        "{flag} {path!r} cannot stand on a command line",
        "give a path that is not empty and does not begin with a hyphen, for example ./-name",
    ),
    "run.folder_exists": Message(
        "{path} exists already", "give another --output-dir, or remove it first"
    ),
    "run.folder_unwritable": Message(
        "{path} cannot be written: {reason}", "give another --output-dir"
    ),
    "run.not_a_run": Message(
        "{path} is not the run.json of a run: {reason}", "plan again with --output-dir"
    ),
    "run.no_script": Message(
        "{path} has no {script}",
        "a run planned with --load direct converts nothing before training; "
        "moe-launch render writes missing scripts",
    ),
    "dlc.too_large": Message(
        "the PAI-DLC job takes {size} bytes, more than the {limit} that PAI-DLC accepts",
        "move long values of env to a file on the shared storage",
    ),
    "launch.gpus_missing": Message(
        "this machine has {available} GPUs, the plan wants {wanted} on each of {nodes} nodes: "
        "{gpu}",
        "run this on such a machine, or plan for this one",
    ),
}
