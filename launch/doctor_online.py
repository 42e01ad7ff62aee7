"""What `moe-launch doctor --online` asks the service and the hosts: nothing but reads."""

from collections.abc import Iterator
from itertools import count

from launch.backends import make_backend
from launch.dlc_client import DlcClient, connect, credentials_provider
from launch.doctor import Patient
from launch.jobs import BackendName
from launch.preflight.judge import FAIL, OK, WARN, Row
from planner.errors import PlannerError


def examine_online(patient: Patient) -> list[Row]:
    """Every check of a backend that the site names; a failed one ends those of its backend."""
    if not patient.uses_dlc and not patient.run.site.hosts.addresses:
        found = "nothing to ask: neither hosts nor a workspace of PAI-DLC is known"
        return [Row(WARN, "online", found, "--hosts HOST,HOST, or moe-launch render --site FILE")]
    rows: list[Row] = []
    for name, check in (("dlc", _dlc), ("hosts", _hosts)):
        try:
            rows += list(check(patient))
        except PlannerError as error:
            rows.append(Row(FAIL, name, error.message, error.fix))
    return rows


def _dlc(patient: Patient) -> Iterator[Row]:
    if not patient.uses_dlc:
        return
    yield Row(OK, "credentials", f"from {credentials_provider()}")
    dlc = patient.run.site.dlc
    client = connect(dlc)
    waiting = client.waiting(dlc.workspace_id, dlc.resource_id)
    where = f"quota {dlc.resource_id}" if dlc.resource_id else "public resources"
    found = f"{waiting} jobs wait for {where} in workspace {dlc.workspace_id}"
    yield Row(WARN if waiting else OK, "queue", found, "this one will wait too" if waiting else "")
    if dlc.ecs_spec:
        yield _spec(client, dlc.ecs_spec, patient.run.machines.gpus_per_node)


def _spec(client: DlcClient, name: str, gpus: int) -> Row:
    """Whether an instance type is there, has the plan's GPUs and can be had."""
    for page in count(1):
        specs = client.gpu_specs(page)
        found = next((spec for spec in specs if spec.get("InstanceType") == name), None)
        if found or not specs:
            break
    if not found:
        return Row(FAIL, "spec", f"the region has no {name} with GPUs", "give another dlc.ecs_spec")
    has = f"{name} has {found.get('Gpu')} x {found.get('GpuType')}"
    if found.get("Gpu") != gpus:
        return Row(FAIL, "spec", f"{has}, the plan wants {gpus}", "plan for these hosts")
    if not found.get("IsAvailable"):
        return Row(WARN, "spec", f"{has}, and none is free", "the job will wait")
    return Row(OK, "spec", has)


def _hosts(patient: Patient) -> Iterator[Row]:
    """Whether ssh works, and what a host says of itself."""
    if not patient.run.site.hosts.addresses:
        return
    backend = make_backend(BackendName.HOSTS, patient.run, patient.run_folder)
    backend.check()
    found = f"all {len(patient.run.site.hosts.addresses)} are reached and see the run folder"
    yield Row(OK, "hosts", found)
