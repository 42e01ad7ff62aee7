"""The PAI-DLC job of a run, in the wire form of CreateJob (API version 2020-12-03)."""

import json
import re
import shlex
from typing import Any

from launch.dlc_schema import MAX_NAME_LENGTH, check_size
from planner.run import Run
from planner.site import CodeSource, Dlc, Mount, Vpc

# AIMaster's arguments, PAI-DLC's documentation of fault tolerance; all are off by default.
AIMASTER = "--enable-job-restart True --max-num-of-job-restart {restarts}"
HANG = " --enable-job-hang-detection True --job-hang-interval {seconds}"
# The same, sanity check: after a fault, before nodes are used again.
SANITY = "--sanity-check-timing=AfterJobFaultTolerant --sanity-check-timeout-ops=MarkJobFail"


def job(run: Run, run_folder: str) -> dict[str, Any]:
    """The request that starts train.sh on every node. What the site does not say is left out.

    `run_folder` is the path of the run folder on the nodes. One JobSpec of workers is right:
    PAI-DLC makes the first worker the master. It presets NCCL's variables: none is set here.
    """
    site, machines = run.site, run.machines
    request: dict[str, Any] = {
        "DisplayName": display_name(run),
        "JobType": "PyTorchJob",
        "WorkspaceId": site.dlc.workspace_id,
        "ResourceId": site.dlc.resource_id,
        "UserCommand": f"bash {shlex.quote(f'{run_folder}/train.sh')}",
        "Envs": dict(site.env),
        "Priority": site.dlc.priority,
        "JobMaxRunningTimeMinutes": site.dlc.max_running_minutes,
        "JobSpecs": [_worker(run)],
        "DataSources": [_data_source(mount) for mount in site.mounts],
        "CodeSource": _code_source(site.dlc.code_source),
        "UserVpc": _vpc(site.dlc.vpc),
        "Settings": _settings(site.dlc, several_nodes=machines.num_nodes > 1),
    }
    return _given(request)


def job_json(run: Run, run_folder: str) -> str:
    """`job` as text.

    Raises UsageError: dlc.too_large.
    """
    text = json.dumps(job(run, run_folder), indent=2, ensure_ascii=True) + "\n"
    check_size(text)
    return text


def missing_of_job(run: Run) -> list[str]:
    """Keys of the site file that PAI-DLC needs and that were not given."""
    dlc = run.site.dlc
    machine = dlc.ecs_spec or (dlc.cpu and dlc.memory)
    needs = {
        "image": run.site.image,
        "dlc.workspace_id": dlc.workspace_id,
        "dlc.ecs_spec (or dlc.cpu and dlc.memory)": machine,
        "run_folder (where the nodes see this folder)": run.site.run_folder,
    }
    return [key for key, value in needs.items() if not value]


def display_name(run: Run) -> str:
    """A name that PAI-DLC accepts: letters, digits, underscores, dots and hyphens."""
    layout = run.plan.layout
    name = f"{run.model.name}-{run.plan.args['tuner_type']}-{layout.world_size}gpu"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:MAX_NAME_LENGTH]


def _worker(run: Run) -> dict[str, Any]:
    """The nodes: an instance type, or the resources of a quota (all values are strings there)."""
    dlc = run.site.dlc
    resources = {
        "CPU": dlc.cpu,
        "GPU": str(run.machines.gpus_per_node),
        "Memory": dlc.memory,
        "SharedMemory": dlc.shared_memory,
        "GPUType": dlc.gpu_type,
    }
    return _given(
        {
            "Type": "Worker",
            "PodCount": run.machines.num_nodes,
            "Image": run.site.image,
            "EcsSpec": dlc.ecs_spec,
            "ResourceConfig": {} if dlc.ecs_spec else _given(resources),
        }
    )


def _data_source(mount: Mount) -> dict[str, Any]:
    return _given(
        {
            "DataSourceId": mount.data_source_id,
            "Uri": mount.uri,
            "MountPath": mount.mount_path,
            "MountAccess": "RO" if mount.read_only else "",
            "Options": mount.options,
        }
    )


def _code_source(code: CodeSource | None) -> dict[str, Any]:
    if code is None:
        return {}
    return _given(
        {
            "CodeSourceId": code.code_source_id,
            "Branch": code.branch,
            "Commit": code.commit,
            "MountPath": code.mount_path,
        }
    )


def _vpc(vpc: Vpc | None) -> dict[str, Any]:
    if vpc is None:
        return {}
    return _given(
        {
            "VpcId": vpc.vpc_id,
            "SwitchId": vpc.switch_id,
            "SecurityGroupId": vpc.security_group_id,
            "ExtendedCIDRs": list(vpc.extended_cidrs),
            "DefaultRoute": vpc.default_route,
        }
    )


def _settings(dlc: Dlc, *, several_nodes: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "EnableRDMA": several_nodes if dlc.rdma is None else dlc.rdma,
        "Tags": dict(dlc.tags),
    }
    if dlc.sanity_check:
        settings |= {"EnableSanityCheck": True, "SanityCheckArgs": SANITY}
    if dlc.max_restarts:
        words = AIMASTER.format(restarts=dlc.max_restarts)
        words += HANG.format(seconds=dlc.hang_seconds) if dlc.hang_seconds else ""
        settings |= {"EnableErrorMonitoringInAIMaster": True, "ErrorMonitoringArgs": words}
    return _given(settings)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without empty texts, lists and objects."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}
