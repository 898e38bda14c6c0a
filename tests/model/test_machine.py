"""Promises of the machine's facts: containers count, and a model's memory need follows its published shape."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.model import machine as machine_module
from sightline.model.checkpoint import Checkpoint
from sightline.model.machine import (
    FAMILY,
    decode_bytes,
    measure_product,
    measure_read,
    memory_need,
    parameters,
    read_machine,
    small_parameters,
)
from sightline.model.quantize import plan

GIB = 1 << 30
DEMO = Path(machine_module.__file__).parents[1] / "demo_model"


def fake_root(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def xeon(logical: int, per_core: int = 1) -> str:
    return "\n".join(
        f"processor\t: {i}\nmodel name\t: Xeon Test\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_bf16\n"
        f"physical id\t: 0\ncore id\t\t: {i // per_core}\n"
        for i in range(logical)
    )


MEMINFO = f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {12 * GIB // 1024} kB\nHugePages_Total: 0\n"
BARE = {"proc/cpuinfo": xeon(8, per_core=2), "proc/meminfo": MEMINFO}


def test_a_bare_machine_is_read_from_its_proc_files(tmp_path: Path):
    machine = read_machine(fake_root(tmp_path, BARE), affinity=set(range(8)))
    assert machine.cpu == "Xeon Test"
    assert machine.features == ("avx2", "avx512f", "avx512_vnni", "amx_bf16")
    assert (machine.cores, machine.physical_cores, machine.cgroup_cores) == (8, 4, None)
    assert (machine.memory_total, machine.memory_available, machine.cgroup_memory) == (16 * GIB, 12 * GIB, None)
    assert machine.multiplies_int8
    assert machine.multiplies_bf16


def test_only_the_cores_this_process_may_use_count(tmp_path: Path):
    machine = read_machine(fake_root(tmp_path, BARE), affinity={0, 1, 2})
    assert (machine.cores, machine.physical_cores) == (3, 2)


@pytest.mark.parametrize(
    ("quota", "cores"), [("250000 100000", 3), ("20000 100000", 1), ("1600000 100000", 8), ("max 100000", 8)]
)
def test_the_container_quota_limits_the_cores_rounded_up(tmp_path: Path, quota: str, cores: int):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota}
    assert read_machine(fake_root(tmp_path, BARE | files), affinity=set(range(8))).cores == cores


def test_the_tightest_group_above_this_process_decides(tmp_path: Path):
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/cpu.max": "200000 100000",
        "sys/fs/cgroup/pod/box/cpu.max": "400000 100000",
        "sys/fs/cgroup/pod/memory.max": str(4 * GIB),
        "sys/fs/cgroup/pod/memory.current": str(3 * GIB),
        "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB}\n",
        "sys/fs/cgroup/pod/box/memory.max": "max",
        "sys/fs/cgroup/pod/box/memory.current": str(3 * GIB),
    }
    machine = read_machine(fake_root(tmp_path, BARE | files), affinity=set(range(8)))
    assert (machine.cores, machine.cgroup_cores) == (2, 2.0)
    assert (machine.cgroup_memory, machine.memory_available) == (4 * GIB, 2 * GIB)


def test_control_groups_of_version_1_count_even_when_the_path_is_the_hosts(tmp_path: Path):
    files = {
        "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(8 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB}\n",
    }
    machine = read_machine(fake_root(tmp_path, BARE | files), affinity=set(range(8)))
    assert (machine.cores, machine.cgroup_cores) == (2, 1.5)
    assert (machine.cgroup_memory, machine.memory_available) == (8 * GIB, 6 * GIB)


def test_version_1_without_a_limit_is_no_limit(tmp_path: Path):
    files = {
        "proc/self/cgroup": "5:memory:/\n3:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
    }
    machine = read_machine(fake_root(tmp_path, BARE | files), affinity=set(range(8)))
    assert (machine.cores, machine.cgroup_memory, machine.memory_available) == (8, None, 12 * GIB)


def test_an_arm_machine_is_read_by_its_own_words(tmp_path: Path):
    block = "processor\t: {}\nBogoMIPS\t: 50\nFeatures\t: fp asimd asimddp i8mm bf16\nCPU part\t: 0xd4f\n"
    root = fake_root(tmp_path, {"proc/cpuinfo": "\n".join(block.format(i) for i in range(4)), "proc/meminfo": MEMINFO})
    machine = read_machine(root, affinity={0, 1, 2, 3})
    assert machine.features == ("asimd", "asimddp", "i8mm", "bf16")
    assert (machine.cpu, machine.cores, machine.physical_cores) == ("unknown processor", 4, 4)
    assert machine.multiplies_int8
    assert machine.multiplies_bf16


def test_a_machine_without_proc_files_still_has_the_cores_of_its_process(tmp_path: Path):
    machine = read_machine(tmp_path, affinity={0, 1})
    assert (machine.cores, machine.physical_cores, machine.memory_available) == (2, 2, 0)
    assert not machine.multiplies_int8


def test_this_machine_can_be_read():
    machine = read_machine()
    assert machine.cores >= machine.physical_cores >= 1
    assert 0 < machine.memory_available <= machine.memory_total


@pytest.mark.parametrize(
    ("name", "count", "vision"),
    [
        ("Qwen3-VL-2B", 2_127_532_032, 406_957_056),
        ("Qwen3-VL-4B", 4_437_815_808, 415_347_712),
        ("Qwen3-VL-8B", 8_767_123_696, 576_388_336),
        ("Qwen3-VL-30B-A3B", 31_070_754_032, 538_631_408),
    ],
)
def test_the_published_shapes_have_the_published_parameter_counts(name: str, count: int, vision: int):
    assert parameters(FAMILY[name]) == count
    assert memory_need(FAMILY[name], "exact", 0).weights == pytest.approx(2 * count + 4 * vision, rel=0.002)


def test_the_demo_model_holds_the_parameters_its_shape_says():
    checkpoint = Checkpoint.open(DEMO)
    assert parameters(checkpoint.config) == sum(math.prod(t.shape) for t in checkpoint.tensors.values())


@pytest.mark.parametrize("name", FAMILY)
def test_with_our_own_kernels_every_weight_counts_once_as_it_lies_in_its_file(name: str):
    config = FAMILY[name]
    stored = 2 * parameters(config) + 2 * small_parameters(config)
    every_expert = replace(config, text=replace(config.text, experts_per_token=config.text.experts))
    saved = decode_bytes(every_expert, "exact") // 4  # 12 bits instead of 16
    assert memory_need(config, "exact", 0, own=True).weights == pytest.approx(stored - saved, rel=0.002)
    assert decode_bytes(config, "exact", own=True) == pytest.approx(0.75 * decode_bytes(config, "exact"), rel=0.003)
    for bf16 in (False, True):  # packed vision weights are read packed
        assert memory_need(config, "int8", 0, bf16=bf16, own=True) == memory_need(config, "int8", 0)
    text = config.text
    whole, scanned = text.vocab * (text.hidden + 2), text.vocab * text.hidden * (1 / 2 + 2 / 128)
    saved = memory_need(config, "int4", 0).weights - memory_need(config, "int4", 0, own=True).weights
    assert saved == whole - scanned - (64 << 20)  # that much of the whole one stays
    assert decode_bytes(config, "int4") - decode_bytes(config, "int4", own=True) == whole - scanned - 128 * text.hidden


def test_a_vision_tower_whose_shapes_our_own_kernels_do_not_read_is_copied_all_the_same():
    config = FAMILY["Qwen3-VL-2B"]
    odd = replace(config, vision=replace(config.vision, intermediate=4088))
    copied = 4 * 2 * odd.vision.depth * odd.vision.intermediate * odd.vision.hidden  # up and down, float32 beside bf16
    fewer = [parameters(c) + small_parameters(c) for c in (config, odd)]
    needs = [memory_need(c, "exact", 0, own=True).weights for c in (config, odd)]
    assert needs[1] - needs[0] == copied - 2 * (fewer[0] - fewer[1])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_packed_weights_need_what_the_packer_writes(precision):
    checkpoint = Checkpoint.open(DEMO)
    plans = plan(checkpoint, precision)
    packed = sum(math.prod(shape) * (2 if kind == "F16" else 1) for p in plans for _, kind, shape in p.entries())
    names = {p.tensor.name for p in plans}
    small = sum(4 * math.prod(t.shape) for name, t in checkpoint.tensors.items() if name not in names)
    assert memory_need(checkpoint.config, precision, 0).weights == packed + small


def test_a_processor_with_bf16_keeps_the_vision_tower_of_int8_as_stored():
    config = FAMILY["Qwen3-VL-2B"]
    packed, stored = (memory_need(config, "int8", 0, bf16=bf16).weights for bf16 in (False, True))
    assert stored - packed == pytest.approx(405e6, rel=0.01)
    assert memory_need(config, "int4", 0, bf16=True) == memory_need(config, "int4", 0)


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("Qwen3-VL-2B", (3.44, 1.72, 1.09)),
        ("Qwen3-VL-4B", (8.04, 4.02, 2.36)),
        ("Qwen3-VL-8B", (15.1, 7.57, 4.37)),
        ("Qwen3-VL-30B-A3B", (6.06, 3.03, 1.76)),
    ],
)
def test_a_token_reads_the_layers_and_the_head_but_only_the_experts_it_uses(name: str, gigabytes: tuple[float, ...]):
    read = [decode_bytes(FAMILY[name], precision) / 1e9 for precision in ("exact", "int8", "int4")]
    assert read == pytest.approx(gigabytes, rel=0.01)


def test_the_kv_cache_grows_with_the_context_and_is_float32_for_exact_and_bytes_for_int4():
    shape = FAMILY["Qwen3-VL-2B"]
    assert memory_need(shape, "exact", 1000).kv == 1000 * 57_344 * 4
    assert memory_need(shape, "int8", 1000).kv == 1000 * 57_344 * 2
    assert memory_need(shape, "int4", 1000).kv == 1000 * 57_344 * (128 + 8) // 128


def test_a_need_is_the_sum_of_its_parts():
    need = memory_need(FAMILY["Qwen3-VL-8B"], "int8", 4096)
    assert need.total == need.weights + need.kv + need.activations + need.runtime
    assert need.activations > 0


def test_the_measurements_are_positive_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine_module, "MEASURED_BYTES", 1 << 20)
    assert measure_read(2) > 0
    assert measure_product() > 0
