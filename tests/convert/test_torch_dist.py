"""Checkpoints of Megatron-Core are looked at without torch: what is missing of one is named.

They are written here by torch's own writer, as Megatron-Core does; tests/stack holds the same
checks against checkpoints of the real conversion.
"""

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp

from convert.findings import Verdict
from convert.torch_dist import read_torch_dist
from convert.verify import verify_torch_dist

WEIGHT = "decoder.layers.mlp.linear_fc1.weight"


def write(folder: Path, **more: torch.Tensor) -> Path:
    """Return `folder`, now with a checkpoint; the keys of `more` have _ for a dot."""
    tensors = {
        WEIGHT: torch.randn(8, 6).bfloat16(),
        "embedding.word_embeddings.weight": torch.randn(5, 4),
        "optimizer.state.exp_avg.decoder": torch.full((3,), torch.nan),
        **{name.replace("_", "."): tensor for name, tensor in more.items()},
    }
    iteration = folder / "iter_0000003"
    iteration.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process is meant
        dcp.save({**tensors, "step": 7}, checkpoint_id=iteration)
    (iteration / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    torch.save({"args": 1}, iteration / "common.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("3")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")


def ids(folder: Path) -> set[str]:
    return {each.id.removeprefix("convert.") for each in verify_torch_dist(folder).findings}


def test_a_whole_checkpoint_is_sound_and_states_are_no_parameters(checkpoint: Path) -> None:
    result = verify_torch_dist(checkpoint)
    assert result.verdict is Verdict.SOUND
    assert (result.tensors, result.parameters) == (2, 8 * 6 + 5 * 4)
    assert result.bytes_read == 8 * 6 * 2 + 5 * 4 * 4


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        (torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]]), "not_finite"),
        (torch.zeros(3, 2, dtype=torch.bfloat16), "all_zero"),
    ],
)
def test_numbers_are_read(tmp_path: Path, tensor: torch.Tensor, wanted: str) -> None:
    assert ids(write(tmp_path / "checkpoint", decoder_final=tensor)) == {wanted}


def iteration(folder: Path) -> Path:
    return folder / "iter_0000003"


def data_file(folder: Path) -> Path:
    return min(iteration(folder).glob("*.distcp"))


def spoil_archive(folder: Path) -> None:
    content = data_file(folder).read_bytes()
    data_file(folder).write_bytes(content.replace(b"PK\x01\x02", b"XX\x01\x02"))


def forget_a_part(folder: Path) -> None:
    with (iteration(folder) / ".metadata").open("rb") as file:
        index = pickle.load(file)
    for key in list(index.storage_data):
        if key.fqn == WEIGHT:
            del index.storage_data[key]
    chunks = index.state_dict_metadata["embedding.word_embeddings.weight"].chunks
    chunks[0] = type(chunks[0])(offsets=chunks[0].offsets, sizes=torch.Size([4, 4]))
    (iteration(folder) / ".metadata").write_bytes(pickle.dumps(index))


# What is done to a checkpoint; the ids of all findings.
DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "no tracker": (lambda f: (f / "latest_checkpointed_iteration.txt").unlink(), {"torn"}),
    "a tracker of words": (
        lambda f: (f / "latest_checkpointed_iteration.txt").write_text("release"),
        {"bad_file"},
    ),
    "a tracker of an iteration that is not there": (
        lambda f: (f / "latest_checkpointed_iteration.txt").write_text("4"),
        {"torn"},
    ),
    "no index": (lambda f: (iteration(f) / ".metadata").unlink(), {"torn"}),
    "an index cut short": (
        lambda f: (iteration(f) / ".metadata").write_bytes(
            (iteration(f) / ".metadata").read_bytes()[:300]
        ),
        {"bad_file"},
    ),
    "no common.pt": (lambda f: (iteration(f) / "common.pt").unlink(), {"torn"}),
    "a common.pt cut short": (
        lambda f: (iteration(f) / "common.pt").write_bytes(
            (iteration(f) / "common.pt").read_bytes()[:-30]
        ),
        {"bad_file"},
    ),
    "another format": (
        lambda f: (iteration(f) / "metadata.json").write_text('{"sharded_backend": "zarr"}'),
        {"other_backend"},
    ),
    "a file missing": (lambda f: data_file(f).unlink(), {"missing_file"}),
    "a file cut short": (
        lambda f: data_file(f).write_bytes(data_file(f).read_bytes()[:-10]),
        {"cut_short"},
    ),
    "a file of another run": (
        lambda f: (iteration(f) / "__9_0.distcp").write_bytes(b"x"),
        {"stray_file"},
    ),
    "an archive that is none": (spoil_archive, {"bad_archive"}),
    "parts that were not written": (forget_a_part, {"not_stored", "not_covered"}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named(checkpoint: Path, kind: str) -> None:
    damage, wanted = DAMAGE[kind]
    damage(checkpoint)
    assert ids(checkpoint) == wanted
    assert verify_torch_dist(checkpoint).verdict is Verdict.DAMAGED


def test_an_index_runs_nothing_that_it_names(checkpoint: Path, tmp_path: Path) -> None:
    """A pickle could call anything; of this one nothing is called."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (ran,))

    (iteration(checkpoint) / ".metadata").write_bytes(pickle.dumps(Evil()))
    assert ids(checkpoint) == {"bad_file"}
    assert not ran.exists()


def test_nothing_of_the_training_stack_is_imported(checkpoint: Path) -> None:
    """Neither torch nor safetensors: a login node or a laptop is enough."""
    code = (
        "import sys; from pathlib import Path; from convert.verify import verify_torch_dist;"
        f"print(verify_torch_dist(Path({str(checkpoint)!r})).verdict,"
        " [name for name in ('torch', 'safetensors', 'transformers') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "sound []\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "checkpoint")


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_spoiled_index_breaks_reading_it(whole: Path, changes: list[tuple[int, int]]) -> None:
    index = iteration(whole) / ".metadata"
    kept = index.read_bytes()
    spoiled = bytearray(kept)
    for place, byte in changes:
        spoiled[place % len(spoiled)] = byte
    index.write_bytes(spoiled)
    try:
        assert verify_torch_dist(whole).kind == "torch_dist"
    finally:
        index.write_bytes(kept)


def test_an_empty_folder_is_torn(tmp_path: Path) -> None:
    assert [each.id for each in read_torch_dist(tmp_path).findings] == ["convert.torn"]
