"""Sentences about run folders, scripts and the machines that run them."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "run.not_trained": Message(
        "no scripts are written for {model}: ms-swift's Megatron commands cannot train it ({why})",
        "leave --output-dir out: the plan itself is printed",
    ),
    "run.needs": Message(
        "scripts need {flags}",
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
        "{path} cannot be written: {reason}",
        "make room or give rights there, or plan into another --output-dir",
    ),
    "run.not_a_run": Message(
        "{path} is not the run.json of a run: {reason}", "plan again with --output-dir"
    ),
    "run.planned_with": Message(
        "{path} was planned with {variable}={planned}, not {given}",
        "give another folder (RUN= of make), or leave {variable} out",
    ),
    "run.no_bash": Message(
        "bash, which {script} is for, cannot be started: {reason}",
        "install bash, or put it on PATH",
    ),
    "run.other_site": Message(
        "{path} was planned or rendered with another site file than {site}",
        "moe-launch render {path} --site {site}, give another folder (RUN= of make), or leave "
        "SITE out",
    ),
    "run.no_script": Message(
        "{path} has no {script}",
        "moe-launch render {path} writes missing scripts",
    ),
    "dlc.too_large": Message(
        "the PAI-DLC job takes {size} bytes, more than the {limit} that PAI-DLC accepts",
        "move long values of env to a file on the shared storage",
    ),
    "dlc.refused": Message(
        "PAI-DLC refused: {code}: {reason}",
        "moe-launch doctor --online RUN looks at credentials, quota and instance type",
    ),
    "dlc.unanswered": Message(
        "PAI-DLC gave no clear answer: {reason}",
        "try again: a submission looks first whether its job is there already",
    ),
    "dlc.no_sdk": Message("PAI-DLC's SDK is not installed", "pip install 'moe-planner[dlc]'"),
    "dlc.no_region": Message(
        "no region is given for PAI-DLC",
        "dlc.region of the site file, or ALIBABA_CLOUD_REGION_ID, for example cn-hangzhou",
    ),
    "dlc.no_credentials": Message(
        "no credentials were found for PAI-DLC: {reason}",
        "aliyun configure, or ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    ),
    "launch.gpus_missing": Message(
        "this machine has {available} GPUs, the plan wants {wanted} on each of {nodes} nodes: "
        "{gpu}",
        "run this on such a machine, or plan for this one",
    ),
}
