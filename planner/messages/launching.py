"""Of submitting runs, and of what becomes of them."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "job.bad_handle": Message(
        "{handle} is not the handle of a job",
        "give what `moe-launch submit` printed, such as dlc://dlc1abc, or the run folder",
    ),
    "job.no_node": Message("the job has no node {node}: it has {nodes}", "give --node from 0 on"),
    "job.unknown": Message(
        "PAI-DLC has no such job: {code}: {reason}",
        "it may be deleted, or in another region or workspace",
    ),
    "job.not_submitted": Message("{path} was not submitted yet", "moe-launch submit {path}"),
    "job.cut_off": Message(
        "the last submission of {path} was cut off before its job was known, or goes on",
        "moe-launch submit {path}: it takes that job if there is one",
    ),
    "job.still_there": Message(
        "{path} was submitted already, and its job {handle} is {state}",
        "moe-launch stop {path} first, or look with moe-launch status {path}",
    ),
    "submit.no_backend": Message(
        "{path} does not say where it runs",
        "--hosts HOST,HOST for plain hosts; or moe-launch render {path} --site FILE, with "
        "dlc.workspace_id or hosts.addresses in the file",
    ),
    "submit.two_backends": Message(
        "{path} can run on hosts and on PAI-DLC", "--backend hosts or --backend dlc"
    ),
    "submit.unasked": Message(
        "nothing is submitted without being asked, and nobody can be asked here",
        "--yes to submit, --dry-run to look at what would be sent",
    ),
    "submit.at_once": Message(
        "another moe-launch submits {path} at this moment",
        "moe-launch status {path}, when it is done",
    ),
    "submit.unrecorded": Message(
        "{path} cannot be written: {reason}",
        "submit from a folder that can be: a submission that is cut off is found again by it",
    ),
    "hosts.count": Message(
        "the run is for {wanted} nodes, not for {given} hosts ({hosts})",
        "give one host a node, --hosts HOST,HOST or hosts.addresses of the site file, or plan for "
        "these",
    ),
    "hosts.twice": Message(
        "{host} is given for two nodes, which would share its GPUs", "give one host a node"
    ),
    "hosts.local_master": Message(
        "{host} cannot reach node 0 at {master}, which is itself there",
        "name this machine as the others know it, or give hosts.master_addr of the site file",
    ),
    "hosts.failed": Message(
        "{host}: {reason}",
        "ssh {host} must work without a password; every host needs bash and the run folder",
    ),
    "hosts.no_run_folder": Message(
        "{host} has no {path}/on_host.sh",
        "put the run folder on storage that all hosts share, and say its path there as run_folder "
        "of the site file; moe-launch render writes missing scripts",
    ),
    "watch.not_finite": Message(
        "{what} is {value}: what follows is worth nothing",
        "stop it, and go on from the last checkpoint with a smaller lr",
    ),
    "watch.memory": Message(
        "{used:.1f} GiB are reserved, the plan had {planned:.1f} (more than {band:.1f} % over)",
        "look at the load of the experts; after a restart as much as the optimizer's moments may "
        "be reserved besides; leave more room: --recompute full, or a larger pp",
    ),
    "watch.slow": Message(
        "a step takes {seconds:.3g} s, the plan had {planned:.3g}",
        "look whether NCCL uses RDMA (NCCL_DEBUG=INFO) and whether data loading waits",
    ),
    "watch.routing": Message(
        "the load balancing loss is {load:.2f}, and 1 means even: few experts get most tokens",
        "raise moe_aux_loss_coeff; memory and time grow with the busiest expert",
    ),
    "watch.jump": Message(
        "{what} is {now:.3g}, usual was {usual:.3g}",
        "look at the data of these steps; a smaller lr or a longer warm-up helps",
    ),
    "watch.silent": Message(
        "no step for {quiet:.0f} s, and one takes about {step:.3g} s",
        "moe-launch status and logs say what the nodes do; it may be saving a checkpoint",
    ),
}
