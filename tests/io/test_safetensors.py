"""The safetensors format: round trips, the package itself, and files that lie."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arraynn import Tensor, nn
from arraynn.io import load, load_file, load_metadata, save, save_file

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def sample():
    rng = np.random.default_rng(0)
    arrays = {f"a.{d}": (rng.random((2, 3)) * 100).astype(d) for d in DTYPES}
    arrays["scalar"] = np.array(3.5)
    arrays["empty"] = np.zeros((0, 4), np.float32)
    arrays["complex"] = np.array([1 + 2j], np.complex64)
    arrays["naïve/名"] = np.arange(5, dtype=np.int16)
    return arrays


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("mmap", [False, True])
def test_round_trip(tmp_path, mmap):
    path = tmp_path / "x.safetensors"
    save_file(sample(), path, metadata={"epoch": "3", "é": "ü"})
    found = load_file(path, mmap=mmap)
    assert_same(found, sample())
    assert load_metadata(path) == {"epoch": "3", "é": "ü"}
    assert_same(load(save(sample())), sample())
    for array in found.values():
        assert array.flags.aligned
        assert array.size == 0 or array.flags.writeable is not mmap


def test_nothing_at_all(tmp_path):
    save_file({}, tmp_path / "x")
    assert load_file(tmp_path / "x") == {}
    assert load_file(tmp_path / "x", mmap=True) == {}
    assert load_metadata(tmp_path / "x") == {}


def test_mapped_arrays_are_the_file_and_outlive_it(tmp_path):
    path = tmp_path / "x"
    save_file({"a": np.arange(1000.0)}, path)
    array = load_file(path, mmap=True)["a"]
    path.unlink()
    assert array.sum() == 499500
    assert array.base is not None
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_bfloat16_and_float8():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kinds = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
    arrays = {str(i): np.arange(7).astype(kind) for i, kind in enumerate(kinds)}
    assert_same(load(save(arrays)), arrays)
    header = json.loads(save(arrays)[8:].split(b"}}")[0] + b"}}")
    assert {entry["dtype"] for entry in header.values()} == {"BF16", "F8_E4M3", "F8_E5M2"}


def test_any_order_of_bytes_and_axes():
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    arrays = {"big": big, "turned": np.arange(6.0).reshape(2, 3).T, "sliced": np.arange(9)[::2]}
    found = load(save(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["big"].dtype == np.float32


def test_models_and_tensors(tmp_path):
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    save_file(a.state_dict(), tmp_path / "w")
    b.load_state_dict(load_file(tmp_path / "w"))
    np.testing.assert_array_equal(a.weight.data, b.weight.data)
    tensor = Tensor([1.0, 2.0], requires_grad=True)
    np.testing.assert_array_equal(load(save({"t": tensor}))["t"], tensor.data)


def test_the_package_reads_ours_and_we_read_the_packages(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    arrays = {name: a for name, a in sample().items() if name != "complex"}
    save_file(arrays, tmp_path / "ours", metadata={"k": "v"})
    assert_same(package.load_file(tmp_path / "ours"), arrays)
    package.save_file(arrays, tmp_path / "theirs", metadata={"k": "v"})
    assert_same(load_file(tmp_path / "theirs"), arrays)
    assert_same(load_file(tmp_path / "theirs", mmap=True), arrays)
    assert load_metadata(tmp_path / "theirs") == {"k": "v"}
    assert_same(load(package.save(arrays)), arrays)


def test_torchs_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("safetensors.torch")
    pytest.importorskip("ml_dtypes")
    tensor = torch.arange(5, dtype=torch.bfloat16) / 3
    package.save_file({"t": tensor}, tmp_path / "x")
    found = load_file(tmp_path / "x")["t"]
    np.testing.assert_array_equal(found.astype(np.float32), tensor.float().numpy())
    save_file({"t": found}, tmp_path / "y")
    assert torch.equal(package.load_file(tmp_path / "y")["t"], tensor)


# ---- files that lie ----------------------------------------------------------------------


def build(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "nothing": (b"", r"file: expected at least 8 bytes, got 0"),
    "short prefix": (b"\0" * 7, r"file: expected at least 8 bytes, got 7"),
    "header past the end": (build({}, length=100), r"header: expected at most 2 bytes"),
    "huge header": (build({}, length=2**63), r"header: expected at most 2 bytes"),
    "largest header": (build({}, length=2**64 - 1), r"header: expected at most 2 bytes"),
    "empty header": (build(b""), r"header: expected JSON that begins with '\{'"),
    "leading space": (build(b" {}"), r"header: expected JSON that begins with"),
    "a list": (build(b"[]"), r"header: expected JSON that begins with"),
    "no JSON": (build(b"{nope}"), r"header: expected JSON in UTF-8"),
    "no UTF-8": (build(b'{"\xff": 1}'), r"header: expected JSON in UTF-8"),
    "more after": (build(b"{}{}"), r"header: expected JSON in UTF-8"),
    "deep": (build(b'{"a":' * 200_000), r"header: expected"),
    "NaN": (build(b'{"__metadata__": NaN}'), r"header: expected JSON without NaN"),
    "twice": (
        build(b'{"a": 1, "a": 2}'),
        r"header: expected every name once, got one twice",
    ),
    "entry twice": (
        build(b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'),
        r"header: expected every name once",
    ),
    "metadata no texts": (build({"__metadata__": {"a": 1}}), r"__metadata__: expected texts"),
    "metadata no dict": (build({"__metadata__": [1]}), r"__metadata__: expected texts"),
    "entry no dict": (build({"a": 3}), r"a: expected dtype, shape and data_offsets, got int"),
    "missing field": (build({"a": {"dtype": "F32"}}), r"a: expected dtype, shape and data_off"),
    "extra field": (build({"a": {**entry(), "x": 1}}, b"\0" * 8), r"a: expected dtype, shape"),
    "unknown dtype": (build({"a": entry("F33")}, b"\0" * 8), r"a: expected one of the dtypes"),
    "dtype no text": (build({"a": entry([1])}, b"\0" * 8), r"a: expected one of the dtypes"),
    "negative size": (build({"a": entry(shape=(-2,))}, b"\0" * 8), r"a: expected a shape of"),
    "float size": (build({"a": entry(shape=(2.0,))}, b"\0" * 8), r"a: expected a shape of"),
    "bool size": (build({"a": entry(shape=(True, 2))}, b"\0" * 8), r"a: expected a shape of"),
    "many axes": (build({"a": entry(shape=(1,) * 65)}, b"\0" * 8), r"shape of at most 64 sizes"),
    "product overflow": (
        build({"a": entry(shape=(2**32, 2**32))}, b"\0" * 8),
        r"a: expected \d+ bytes for float32",
    ),
    "hidden by a zero": (
        build({"a": entry(shape=(0, 2**80), offsets=(0, 0))}),
        r"a: expected sizes of 63 bits",
    ),
    "too large with a zero": (
        build({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}),
        r"big|large|maximum|overflow",
    ),
    "negative offset": (build({"a": entry(offsets=(-8, 0))}, b"\0" * 8), r"two data_offsets"),
    "one offset": (build({"a": entry(offsets=(0,))}, b"\0" * 8), r"two data_offsets"),
    "offsets no list": (build({"a": {**entry(), "data_offsets": 3}}), r"two data_offsets"),
    "offsets reversed": (build({"a": entry(offsets=(8, 0))}, b"\0" * 8), r"data_offsets within"),
    "past the end": (build({"a": entry()}, b"\0" * 7), r"data_offsets within the file's 7 bytes"),
    "far past": (build({"a": entry(shape=(2**60,), offsets=(0, 2**62))}), r"data_offsets within"),
    "wrong length": (build({"a": entry(shape=(3,))}, b"\0" * 8), r"a: expected 12 bytes for fl"),
    "overlap": (
        build({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        r"b: expected data from byte 8, got an overlap: data from byte 4",
    ),
    "same bytes twice": (
        build({"a": entry(), "b": entry()}, b"\0" * 8),
        r"expected data from byte 8, got an overlap",
    ),
    "gap": (
        build({"a": entry(offsets=(4, 12))}, b"\0" * 12),
        r"a: expected data from byte 0, got a gap",
    ),
    "data left over": (build({"a": entry()}, b"\0" * 9), r"file: expected 8 bytes of data"),
    "data without header": (build({}, b"\0"), r"file: expected 0 bytes of data"),
    "no bool": (
        build({"a": entry("BOOL", (2,), (0, 2))}, b"\1\2"),
        r"a: expected bools of 0 or 1",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_raise_value_error(name, tmp_path):
    data, message = LIES[name]
    path = tmp_path / "x"
    path.write_bytes(data)
    for read in (lambda: load(data), lambda: load_file(path), lambda: load_file(path, mmap=True)):
        with pytest.raises(ValueError, match=message):
            read()


def test_every_truncation_and_extension_raises():
    data = save({"a": np.arange(3.0), "b": np.ones((2, 2), np.int8)}, {"k": "v"})
    load(data)
    for end in range(len(data)):
        with pytest.raises(ValueError, match="expected"):
            load(data[:end])
    with pytest.raises(ValueError, match="bytes of data"):
        load(data + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_never_do_more_than_raise_value_error(data):
    raw = bytearray(save({"ab": np.arange(4, dtype=np.float32), "c": np.ones(3, bool)}, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = load(bytes(raw))
    except (ValueError, NotImplementedError):
        return
    assert sum(array.nbytes for array in found.values()) <= len(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_value_error(raw):
    with pytest.raises(ValueError, match="load_file"):
        load(raw)
    with pytest.raises(ValueError, match="load_file"):
        load(struct.pack("<Q", len(raw)) + raw + b"\0")


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda s: s != "__metadata__"),
        st.tuples(
            st.sampled_from(["F64", "F32", "I8", "BOOL", "BF17", 3]),
            st.lists(st.integers(-1, 2**64), max_size=3),
            st.lists(st.integers(-1, 40), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 40),
)
def test_random_headers(entries, size):
    raw = build(
        {
            name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            for name, (dtype, shape, offsets) in entries.items()
        },
        b"\0" * size,
    )
    try:
        found = load(raw)
    except ValueError:
        return
    assert sum(array.nbytes for array in found.values()) == size


# ---- writing -----------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    save_file({"a": np.zeros(3)}, path)
    before = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_file({"a": np.ones(3)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_a_write_replaces_the_old_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / "x"
    save_file({"a": np.zeros(3)}, path)
    seen = []
    replace = os.replace

    def spy(source, target):
        seen.append((load_file(source)["a"].tolist(), load_file(target)["a"].tolist()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    save_file({"a": np.ones(3)}, path)
    assert seen == [([1, 1, 1], [0, 0, 0])]
    assert load_file(path)["a"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({"a": [1.0]}, None, TypeError, r"\[save_file\] a: expected a tensor or array, got list"),
        ({"a": np.array("x")}, None, TypeError, r"\[save_file\] a: expected a dtype of the form"),
        ({"a": np.ones(1, complex)}, None, TypeError, r"expected a dtype of the format"),
        ({"a": np.array([None])}, None, TypeError, r"expected a dtype of the format"),
        ({1: np.ones(1)}, None, ValueError, r"\[save_file\] tensors: expected names as texts"),
        ({"__metadata__": np.ones(1)}, None, ValueError, r"tensors: expected names as texts"),
        ({}, {"a": 1}, TypeError, r"\[save_file\] metadata: expected texts by name"),
    ],
)
def test_what_cannot_be_saved(tmp_path, tensors, metadata, error, message):
    with pytest.raises(error, match=message):
        save_file(tensors, tmp_path / "x", metadata)
    assert not os.listdir(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_file(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        save_file({}, tmp_path / "no" / "where")


def test_data_is_aligned_in_the_file():
    data = save({"a": np.ones(3, np.int8), "b": np.ones(2), "c": np.ones(1, np.float32)})
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert list(header) == ["b", "c", "a"]
