"""Sentences about topologies that people write or detect."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "trap.sparse_flops": Message(
        "{key} = {value} TFLOP/s is what the vendor prints for sparse matrices, which training "
        "does not use",
        "dense is {likely}",
    ),
    "trap.bidirectional_nvlink": Message(
        "{key} = {value} GB/s is what the vendor prints for both directions together",
        "one direction is {likely}",
    ),
    "trap.label_memory": Message(
        "{key} = {value} MiB is the label of the GPU or nvidia-smi's total, not torch's "
        "total_memory",
        "torch sees {likely}",
    ),
    "trap.total_gbits": Message(
        "{key} = {value} Gbit/s is more than any NIC has, and looks like the sum of all",
        "one of {nics} would have {likely}",
    ),
    "trap.front_end_nic": Message(
        "{key} = {value} NICs for {gpus} GPUs: the front end or the storage seems to be counted",
        "{likely} would carry training",
    ),
    "trap.nic_over_pcie": Message(
        "{key} = {value} Gbit/s is more than the GPU's PCIe of {lanes} Gbit/s takes",
        "{likely} is what a GPU gets",
    ),
    "detect.unreadable": Message(
        "{path} is not the output of {command}: {reason}",
        "save all that the command prints to the file",
    ),
    "detect.no_gpus": Message(
        "the inputs name no GPU", "give --nvidia-smi-topo or --nccl-topo, best with --nvidia-smi"
    ),
    "environment.nvidia_smi": Message(
        "nvidia-smi does not work on this machine: {reason}",
        "run this on a node with GPUs, or give files: --nvidia-smi-topo, --nvidia-smi, "
        "--ibdev2netdev, --nccl-topo",
    ),
}
