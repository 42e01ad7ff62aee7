"""Checkpoints of Megatron-Core are looked at without torch: what is missing of one is named.

They are written here by torch's own writer, as Megatron-Core does; tests/stack holds the same
checks against checkpoints of the real conversion.
"""

import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp

from convert.findings import Verdict
from convert.torch_dist import _overlap as overlap_of
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
    fill_iteration(folder, tensors)
    (folder / "latest_checkpointed_iteration.txt").write_text("3")
    return folder


def fill_iteration(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write the files of one checkpoint."""
    iteration = folder / "iter_0000003"
    iteration.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process is meant
        dcp.save({**tensors, "step": 7}, checkpoint_id=iteration)
    (iteration / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    torch.save({"args": 1}, iteration / "common.pt")


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


def with_index(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Return what changes the entry of a weight in the index."""

    def damage(folder: Path) -> None:
        path = iteration(folder) / ".metadata"
        index = pickle.loads(path.read_bytes())
        change(index)
        path.write_bytes(pickle.dumps(index))

    return damage


def other_type(dtype: torch.dtype) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        held = index.state_dict_metadata[WEIGHT]
        held.properties = type(held.properties)(dtype=dtype)

    return change


def grow(index: Any) -> None:
    held = index.state_dict_metadata[WEIGHT]
    held.size = torch.Size([80, 6])
    held.chunks[0] = type(held.chunks[0])(offsets=torch.Size([0, 0]), sizes=held.size)


def overlap(index: Any) -> None:
    """The second half is said to begin in the middle of the first."""
    held = index.state_dict_metadata[WEIGHT]
    held.size = torch.Size([16, 6])
    held.chunks.append(type(held.chunks[0])(offsets=torch.Size([4, 0]), sizes=torch.Size([8, 6])))
    (key,) = (key for key in index.storage_data if key.fqn == WEIGHT)
    other = type(key)(fqn=WEIGHT, offset=torch.Size([4, 0]), index=1)
    index.storage_data[other] = index.storage_data[key]


def negative(index: Any) -> None:
    index.state_dict_metadata[WEIGHT].size = torch.Size([-8, -6])


def forget_all(index: Any) -> None:
    index.state_dict_metadata.clear()
    index.storage_data.clear()


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
    "a tracker of a number that no folder can have": (
        lambda f: (f / "latest_checkpointed_iteration.txt").write_text("9" * 300),
        {"torn"},
    ),
    "an index that says a wider type": (with_index(other_type(torch.float64)), {"bad_archive"}),
    "an index that says a narrower type": (with_index(other_type(torch.uint8)), {"bad_archive"}),
    "an index that says a larger tensor": (with_index(grow), {"bad_archive"}),
    "an index of parts that overlap": (with_index(overlap), {"overlap"}),
    "an index of a negative shape": (with_index(negative), {"outside"}),
    "an index of nothing": (with_index(forget_all), {"empty", "stray_file"}),
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
    "parts that were not written": (forget_a_part, {"not_stored", "not_covered", "bad_archive"}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named(checkpoint: Path, kind: str) -> None:
    damage, wanted = DAMAGE[kind]
    damage(checkpoint)
    assert ids(checkpoint) == wanted
    assert verify_torch_dist(checkpoint).verdict is Verdict.DAMAGED


@given(st.data())
def test_parts_overlap_where_a_number_lies_in_two(data: st.DataObject) -> None:
    """Beside counting every number by itself."""
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    begins = st.tuples(*(st.integers(0, size - 1) for size in shape))
    chunks = {}
    for begin in data.draw(st.lists(begins, unique=True, max_size=4)):
        most = [size - start for size, start in zip(shape, begin, strict=True)]
        chunks[begin] = data.draw(st.tuples(*(st.integers(0, each) for each in most)))
    counted = np.zeros(shape, int)
    for begin, sizes in chunks.items():
        part = tuple(slice(a, a + size) for a, size in zip(begin, sizes, strict=True))
        counted[part] += 1
    assert overlap_of(chunks) == bool((counted > 1).any())


@pytest.mark.parametrize("trained", [True, False])
def test_an_adapter_alone_is_no_model_of_too_few_parameters(
    tmp_path: Path, *, trained: bool
) -> None:
    """As training writes one of LoRA; its second matrices start as zeros."""
    model = write_checkpoint(tmp_path / "model")
    name = "decoder.layers.self_attention.linear_qkv.lora_{}.default.weight"
    folder = tmp_path / "checkpoint"
    write(folder)
    shutil.rmtree(iteration(folder))
    fill_iteration(
        folder,
        {
            name.format("A"): torch.randn(4, 64),
            name.format("B"): torch.ones(64, 4) if trained else torch.zeros(64, 4),
        },
    )
    result = verify_torch_dist(folder, source=model)
    wanted = [] if trained else ["convert.adapter_not_trained"]
    assert [each.id for each in result.findings] == wanted
    assert "parameters: it holds an adapter alone, and no model" in result.not_checked


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
