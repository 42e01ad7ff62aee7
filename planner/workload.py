"""What is trained: sequence length, batch, tuner and routing. Built from flags; the defaults are
assumptions."""

from dataclasses import dataclass
from enum import StrEnum


class TunerType(StrEnum):
    """Which parameters are trained."""

    FULL = "full"
    LORA = "lora"


class Task(StrEnum):
    """What the model learns from; the command of `megatron` that runs it."""

    SFT = "sft"  # answers of conversations
    PT = "pt"  # all of a text: continued pre-training


class Placement(StrEnum):
    """Which groups may leave the NVLink domain."""

    NVLINK = "nvlink"  # TP, ETP and EP stay inside it
    ANY = "any"


class Load(StrEnum):
    """Where training reads the weights."""

    MCORE = "mcore"  # from Megatron-Core's format, converted once before
    DIRECT = "direct"  # from the Hugging Face folder, at every start


# The load of the busiest expert rank over the mean, where nothing is known of it: ranks of real
# runs of a model with random weights got 0.82 to 1.13 of their share over a run, and up to 1.52 in
# one layer of one microbatch (benchmarks/memory, 2026-11-24); no trained model was measured.
ASSUMED_ROUTING_IMBALANCE = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A fine-tuning job, independent of any layout.

    `seq_length` is the packing length in tokens; a sample is one pack. `mean_document_tokens` is
    the mean length of the documents inside a pack (attention is block-diagonal over them); equal to
    `seq_length` when unknown. `routing_imbalance` is the load of the busiest expert rank over the
    mean (1.0: balanced).
    """

    seq_length: int = 8192
    global_batch_size: int = 16
    micro_batch_size: int | None = None  # None: searched
    tuner_type: TunerType = TunerType.FULL
    lora_rank: int = 8
    recompute: str = "auto"  # auto | none | selective | full
    routing_imbalance: float = 1.0
    mean_document_tokens: int | None = None
    mtp_num_layers: int = 0
    packing: bool = True
    task: Task = Task.SFT
    target_modules: tuple[str, ...] = ("all-linear",)  # of LoRA
    placement: Placement = Placement.NVLINK

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, none of them padding: packs are counted as full."""
        return self.global_batch_size * self.seq_length

    @property
    def document_tokens(self) -> int:
        """Tokens of one attention block."""
        return self.mean_document_tokens or self.seq_length
