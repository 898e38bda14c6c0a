"""Promises of opening a checkpoint: exact values from every type and layout, and faults named by their file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import CheckpointError
from sightline.model.checkpoint import Checkpoint, read_safetensors
from small_checkpoints import (
    EMBEDDING,
    FIXTURES,
    change_json,
    change_tensors,
    copy,
    read_stored,
    write_raw,
    write_stored,
)

NORM = "model.language_model.norm.weight"
ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy("dense-tied", tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return copy("dense-untied", tmp_path / "sharded")


def header(path: Path, *entries: object) -> None:
    """A file whose header describes `entries` a, b, .. over a body of 64 bytes."""
    write_raw(path, json.dumps(dict(zip("abc", entries, strict=False))).encode(), bytes(64))


def test_every_stored_type_becomes_the_same_float32_numbers(tmp_path: Path):
    values = np.array([[0, -0.0, 1, -2.5], [0.15625, 2.0**-14, 61440, -(2.0**-24)]], np.float32)
    bf16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    stored = {"F32": values, "F16": values.astype(np.float16), "BF16": bf16}
    write_stored(tmp_path / "m.safetensors", {kind: (kind, (2, 4), a.tobytes()) for kind, a in stored.items()})
    _, tensors = read_safetensors(tmp_path / "m.safetensors")
    for kind in stored:
        np.testing.assert_array_equal(tensors[kind].float32(), values)


def test_tensors_are_the_mapped_file_not_copies_of_it(sharded: Path):
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.maps) == 3
    for tensor in checkpoint.tensors.values():
        assert any(np.shares_memory(tensor.data, mapped) for mapped in checkpoint.maps)


def test_values_are_there_again_after_their_pages_were_given_back(folder: Path):
    checkpoint = Checkpoint.open(folder)
    before = checkpoint.tensors[NORM].float32().copy()
    checkpoint.release()
    np.testing.assert_array_equal(checkpoint.tensors[NORM].float32(), before)


def test_one_file_and_many_shards_hold_the_same_tensors(sharded: Path, tmp_path: Path):
    single = copy("dense-untied", tmp_path / "single")
    joined: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for shard in sorted(single.glob("*.safetensors")):
        joined |= read_stored(shard)
        shard.unlink()
    (single / "model.safetensors.index.json").unlink()
    write_stored(single / "model.safetensors", joined)
    one, many = Checkpoint.open(single).tensors, Checkpoint.open(sharded).tensors
    assert set(one) == set(many)
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor.data, many[name].data)


def test_a_file_whose_tensors_lie_at_odd_addresses_reads_the_same(folder: Path):
    path = folder / "model.safetensors"
    before = {name: t.float32().copy() for name, t in Checkpoint.open(folder).tensors.items()}
    for padding in range(4):
        write_stored(path, read_stored(path), padding)
        if path.read_bytes()[0] % 4 == 1:  # the length of the header: the body starts 8 bytes behind it
            break
    found = Checkpoint.open(folder).tensors
    assert all(t.data.base is not None and t.data.ctypes.data % 4 == 0 for t in found.values())
    for name, values in before.items():
        np.testing.assert_array_equal(found[name].float32(), values)


@pytest.mark.parametrize("prefix", ["", "model.model."])
def test_the_prefixes_of_fine_tuning_tools_are_understood(folder: Path, prefix: str):
    official = set(Checkpoint.open(folder).tensors)
    change_tensors(folder, lambda t: rename(t, lambda name: prefix + name.removeprefix("model.")))
    assert set(Checkpoint.open(folder).tensors) == official


def rename(tensors, new_name) -> None:
    for name in list(tensors):
        tensors[new_name(name)] = tensors.pop(name)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder; give a Qwen3-VL checkpoint folder"):
        Checkpoint.open(tmp_path / "nowhere")


def test_a_folder_without_weights_says_which_files_it_lacks(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("part", ["0", "4", "8", "header / 2", "header", "body / 2", "all but a byte"])
def test_a_truncated_file_is_named_in_the_error(folder: Path, part: str):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    length = {
        "0": 0,
        "4": 4,
        "8": 8,
        "header / 2": head // 2,
        "header": head,
        "body / 2": (head + len(whole)) // 2,
        "all but a byte": len(whole) - 1,
    }[part]
    path.write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*(truncated|too short)"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("length", [17, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path, length: int):
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":1}' + b" " * 8)
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors: its header claims {length} bytes, the file has 23"
    ):
        read_safetensors(path)


@pytest.mark.parametrize("text", [b"nul", b"\xff\xfe", b"[]", b"5", b"[" * 100_000, b"<html>not found</html>"])
def test_a_header_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes):
    path = tmp_path / "model.safetensors"
    write_raw(path, text, bytes(64))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its header is not (a JSON object|JSON)"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (5, "the header entry of 'a' is malformed"),
        ({"dtype": "F32"}, "malformed"),
        (ONE | {"shape": None}, "malformed"),
        (ONE | {"shape": [float("inf")]}, "malformed"),
        (ONE | {"data_offsets": [0]}, "malformed"),
        (ONE | {"data_offsets": [0, float("nan")]}, "malformed"),
        (ONE | {"shape": [-2, -2]}, r"of shape \[-2, -2\]"),
        (ONE | {"shape": [2, 3]}, r"of shape \[2, 3\] needs 24 bytes, has 16"),
        (ONE | {"shape": [1 << 40, 1 << 40]}, "needs .* bytes, has 16"),
        (ONE | {"data_offsets": [16, 0]}, "needs 16 bytes, has -16"),
        (ONE | {"data_offsets": [-16, 0]}, "ends at byte 0 of 64"),
        (ONE | {"data_offsets": [49, 65]}, "ends at byte 65 of 64; the file is truncated, download it again"),
        (ONE | {"data_offsets": [1 << 62, (1 << 62) + 16]}, "the file is truncated"),
        (ONE | {"dtype": "BOOL"}, "has type BOOL; known are BF16, F16, F32"),
        (ONE | {"dtype": "F8_E4M3"}, "is F8_E4M3; FP8 checkpoints are not served here, use the BF16 one"),
    ],
)
def test_an_entry_that_does_not_fit_the_file_is_named(tmp_path: Path, entry: object, says: str):
    header(tmp_path / "m.safetensors", entry)
    with pytest.raises(CheckpointError, match=rf"m\.safetensors: .*{says}"):
        read_safetensors(tmp_path / "m.safetensors")


def test_a_missing_shard_is_named(sharded: Path):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: file is missing; .* download it"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/hostname", "a/b", 5, None, "..", ""])
def test_an_index_cannot_lead_out_of_its_folder(sharded: Path, shard: object):
    change_json(sharded / "model.safetensors.index.json", lambda index: index["weight_map"].update({NORM: shard}))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(sharded)
    assert "only plain file names are allowed" in caught.value.message or "Is a directory" in caught.value.message


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"weight_map": {}}', b'{"weight_map": 5}', b"[" * 10**5]
)
def test_a_damaged_index_is_named(sharded: Path, content: bytes):
    (sharded / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"index\.json: (cannot be read as a shard index|its weight_map is empty)"
    ):
        Checkpoint.open(sharded)


def test_a_tensor_that_the_index_promises_and_its_shard_lacks_is_named(sharded: Path):
    change_json(
        sharded / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({"model.extra": "model-00001-of-00003.safetensors"}),
    )
    with pytest.raises(CheckpointError, match=r"model-00001.*tensor 'model\.extra' is not in it, though"):
        Checkpoint.open(sharded)


def test_a_tensor_of_another_shape_name_or_type_is_refused_with_both_shapes(folder: Path):
    change_tensors(folder, lambda t: t.update({"model.ints": ("I64", (2,), bytes(16))}))
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"norm\.weight' has shape \[32\], config\.json asks for \[64\]"):
        checkpoint.tensor(NORM, (64,))
    with pytest.raises(CheckpointError, match=r"shape \[32\], config\.json asks for \[2, 3\] or \[3, 2\]"):
        checkpoint.tensor(NORM, (2, 3), (3, 2))
    with pytest.raises(CheckpointError, match=rf"{folder}: tensor 'model\.nothing' is missing"):
        checkpoint.tensor("model.nothing", (1,))
    with pytest.raises(CheckpointError, match="is I64; stored weights must be BF16, F16 or F32"):
        checkpoint.tensor("model.ints", (2,))


def test_the_digest_is_the_same_at_every_opening_and_in_another_place(folder: Path):
    first = Checkpoint.open(folder).digest()
    assert first == Checkpoint.open(folder).digest()
    assert len(first) == 32
    moved = folder.rename(folder.parent / "moved")
    assert Checkpoint.open(moved).digest() == first


@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_the_digest_changes_with_one_byte_of_a_weight_even_at_the_same_size_and_time(folder: Path, at: str):
    path = folder / "model.safetensors"
    before, time = Checkpoint.open(folder).digest(), path.stat().st_mtime_ns
    whole = bytearray(path.read_bytes())
    span = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])[EMBEDDING]["data_offsets"]
    base = 8 + int.from_bytes(whole[:8], "little")
    whole[base + {"start": span[0], "middle": sum(span) // 2, "end": span[1] - 1}[at]] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(time, time))
    assert Checkpoint.open(folder).digest() != before


def test_the_digest_changes_when_a_weight_file_was_written_later_or_the_config_differs(folder: Path):
    digests = {Checkpoint.open(folder).digest()}
    os.utime(folder / "model.safetensors", ns=(1, 1))
    digests.add(Checkpoint.open(folder).digest())
    change_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    digests.add(Checkpoint.open(folder).digest())
    assert len(digests) == 3


def test_two_golden_checkpoints_have_different_digests():
    digests = {Checkpoint.open(folder).digest() for folder in FIXTURES.glob("*/checkpoint")}
    assert len(digests) == len(list(FIXTURES.glob("*/checkpoint")))
