"""Numbers are read as torch reads them, whatever a tensor's type, size and place in its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convert import values
from convert.findings import DamagedFileError
from convert.safetensors_file import DTYPE_BYTES, Tensor, read_header
from convert.values import as_float32, content, difference, to_bfloat16

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def tensor_of(path: Path, data: bytes, dtype: str, before: int = 0) -> Tensor:
    """Write bytes behind others and return them as a tensor."""
    path.write_bytes(b"\xff" * before + data + b"\xff" * 7)
    number = len(data) // DTYPE_BYTES[dtype]
    return Tensor(name="x", dtype=dtype, shape=(number,), path=path, offset=before, size=len(data))


@pytest.mark.parametrize("dtype", TORCH)
@given(data=st.data())
def test_nan_infinity_and_zeros_are_counted_as_torch_counts(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, data: st.DataObject
) -> None:
    size = DTYPE_BYTES[dtype]
    patterns = [bytes(size), b"\xff" * size, b"\x00" * (size - 1) + b"\x7f"]
    patterns += [b"\x00" * (size - 2) + b"\x80\x7f", b"\x00" * (size - 2) + b"\x00\xfc"]
    pattern = st.sampled_from([each for each in patterns if len(each) == size])
    word = st.one_of(st.binary(min_size=size, max_size=size), pattern)
    raw = b"".join(data.draw(st.lists(word, min_size=1, max_size=40)))
    path = tmp_path_factory.mktemp("values") / "x"
    held = content(tensor_of(path, raw, dtype, before=data.draw(st.integers(0, 9))))
    numbers = torch.frombuffer(bytearray(raw), dtype=TORCH[dtype]).double()
    assert held.nan == int(numbers.isnan().sum())
    assert held.inf == int(numbers.isinf().sum())
    assert held.all_zero is bool((numbers == 0).all())


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_rounding_to_bfloat16_is_torchs(bits: list[int]) -> None:
    numbers = np.array(bits, np.uint32).view(np.float32)
    numbers = numbers[~np.isnan(numbers)]  # NaN stays NaN, with other bits
    wanted = torch.from_numpy(numbers.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(to_bfloat16(numbers), wanted)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_numbers_become_float32_as_torchs(dtype: str) -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(TORCH[dtype])
    raw = numbers.view(torch.uint8).numpy()
    size = DTYPE_BYTES[dtype]
    held = as_float32(raw.view(np.dtype(f"u{size}")), dtype)
    assert held is not None
    assert np.array_equal(held, numbers.float().numpy())


@pytest.mark.parametrize("dtype", ["F32", "F16"])
@pytest.mark.parametrize("number", [1, 31, 32, 33, 96, 100])
def test_a_wider_tensor_is_compared_after_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, number: int
) -> None:
    """Across the pieces in which both are read, with one number changed or none."""
    monkeypatch.setattr(values, "PIECE_BYTES", 64)
    monkeypatch.setattr(values, "_free", [])
    wide = torch.randn(number, generator=torch.Generator().manual_seed(1)).to(TORCH[dtype])
    narrow = wide.bfloat16()
    one = tensor_of(tmp_path / "a", wide.view(torch.uint8).numpy().tobytes(), dtype)
    other = tensor_of(tmp_path / "b", narrow.view(torch.uint8).numpy().tobytes(), "BF16")
    assert difference(one, other).elements == difference(other, one).elements == 0
    narrow[number - 1] = 9.0
    changed = tensor_of(tmp_path / "b", narrow.view(torch.uint8).numpy().tobytes(), "BF16")
    assert difference(one, changed).elements == 1


def test_types_that_are_not_alike_are_not_compared(tmp_path: Path) -> None:
    one = tensor_of(tmp_path / "a", bytes(8), "F8_E4M3")
    other = tensor_of(tmp_path / "b", bytes(16), "BF16")
    with pytest.raises(ValueError, match="F8_E4M3 and BF16"):
        difference(one, other)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    tensor = tensor_of(tmp_path / "a", bytes(100), "F32")
    tensor.path.write_bytes(bytes(50))
    with pytest.raises(DamagedFileError, match="became shorter"):
        content(tensor)


@given(st.binary(max_size=200))
def test_no_file_of_any_bytes_breaks_reading_its_header(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    path.write_bytes(data)
    try:
        read_header(path)
    except DamagedFileError as error:
        assert "x.safetensors" in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    JSON
    | st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}),
        max_size=2,
    )
)
def test_no_header_of_any_json_breaks_reading_it(
    tmp_path_factory: pytest.TempPathFactory, header: object
) -> None:
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    try:
        read_header(path)
    except DamagedFileError as error:
        assert "x.safetensors" in str(error)
