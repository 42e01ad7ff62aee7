"""The request to PAI-DLC has what the site says, in the names of its SDK."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import FULL_SITE, make_run

from launch.dlc_backend import TAG, DlcBackend
from launch.run_folder import write_run_folder
from planner.site import CodeSource, Dlc, Mount, Vpc

FULL_DLC = Dlc(
    region="cn-x",
    workspace_id="7",
    resource_id="q1",
    cpu="96",
    memory="1600Gi",
    priority=3,
    max_running_minutes=90,
    rdma=False,
    sanity_check=True,
    max_restarts=3,
    hang_seconds=1800,
    gpu_type="X",
    shared_memory="512Gi",
    vpc=Vpc(vpc_id="v", switch_id="s", security_group_id="g", extended_cidrs=("10.0.0.0/8",)),
    code_source=CodeSource(code_source_id="c", branch="main"),
    tags={"team": "a"},
)
MOUNTS = (
    Mount(mount_path="/oss", uri="oss://bucket/x", options="{}", read_only=True),
    Mount(mount_path="/nas", data_source_id="d-1"),
)


@pytest.fixture
def full_job(tmp_path: Path) -> dict[str, Any]:
    """The request of a site that says all that it can."""
    site = replace(FULL_SITE, dlc=FULL_DLC, mounts=MOUNTS)
    write_run_folder(make_run(ep=8, site=site), tmp_path / "run")
    backend = DlcBackend(dlc=FULL_DLC, job_file=tmp_path / "run" / "job.json")
    job: dict[str, Any] = json.loads(backend.shown())
    return job


def test_the_request_has_all_that_a_site_says(full_job: dict[str, Any]) -> None:
    (worker,) = full_job["JobSpecs"]
    assert worker["ResourceConfig"] == {
        "CPU": "96",
        "GPU": "8",
        "GPUType": "X",
        "Memory": "1600Gi",
        "SharedMemory": "512Gi",
    }
    values = [full_job[key] for key in ("Priority", "JobMaxRunningTimeMinutes", "ResourceId")]
    assert values == [3, 90, "q1"]
    assert full_job["DataSources"] == [
        {"Uri": "oss://bucket/x", "MountPath": "/oss", "MountAccess": "RO", "Options": "{}"},
        {"DataSourceId": "d-1", "MountPath": "/nas"},
    ]
    assert full_job["UserVpc"]["ExtendedCIDRs"] == ["10.0.0.0/8"]
    assert full_job["CodeSource"] == {"CodeSourceId": "c", "Branch": "main"}
    settings = full_job["Settings"]
    assert (settings["EnableRDMA"], settings["EnableSanityCheck"]) == (False, True)
    assert settings["ErrorMonitoringArgs"] == (
        "--enable-job-restart True --max-num-of-job-restart 3"
        " --enable-job-hang-detection True --job-hang-interval 1800"
    )
    assert settings["Tags"] == {"team": "a", TAG: "ID"}


def test_the_sdk_knows_every_name_that_is_sent(full_job: dict[str, Any]) -> None:
    """It drops what it does not know: what it gives back is all that it was given."""
    from alibabacloud_pai_dlc20201203.models import CreateJobRequest

    returned: dict[str, Any] = CreateJobRequest().from_map(full_job).to_map()
    (worker,) = returned["JobSpecs"]
    returned["JobSpecs"] = [{key: value for key, value in worker.items() if value != []}]
    assert {key: returned[key] for key in full_job} == full_job
