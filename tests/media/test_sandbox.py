"""Promises about faults: a picture that kills, stalls or floods its worker fails alone."""

import asyncio
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from media.pictures import encoded, png
from media.test_worker import png_with_size
from sightline.errors import ImageTooLarge, InternalError, InvalidImage, ShuttingDown
from sightline.media import sandbox
from sightline.media.images import ResizeRule
from sightline.media.pictures import ImageWorkers
from sightline.settings import MediaSettings
from sightline.types import Image

MODEL = ResizeRule(min_pixels=65_536, max_pixels=16_777_216)
SMALL = Image(png(64, 96))
MIB = 1 << 20


@pytest.fixture
def one():
    """One worker, started and idle."""
    workers = ImageWorkers(MediaSettings(workers=1))
    workers.decode_now(SMALL, MODEL)
    yield workers
    workers.close()


def children() -> set[int]:
    """Process ids of this process's children."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:  # ended meanwhile
            continue
        if int(parent) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def only_child() -> int:
    (pid,) = children()
    return pid


async def until_busy(workers: ImageWorkers) -> None:
    while not workers._pool._busy:
        await asyncio.sleep(0)


def test_a_worker_killed_in_mid_decode_fails_that_picture_only(one):
    async def scene():
        worker = only_child()
        os.kill(worker, signal.SIGSTOP)
        doomed = asyncio.create_task(one.decode(Image(SMALL.data, param="p"), MODEL))
        await until_busy(one)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(InvalidImage, match="the decoder crashed on it") as caught:
            await doomed
        assert caught.value.param == "p"
        assert (await one.decode(SMALL, MODEL)).original == (64, 96)
        assert only_child() != worker

    asyncio.run(scene())


def test_a_worker_killed_while_idle_costs_nobody_anything(one):
    os.kill(only_child(), signal.SIGKILL)
    os.waitid(os.P_PID, only_child(), os.WEXITED | os.WNOWAIT)
    assert one.decode_now(SMALL, MODEL).original == (64, 96)


def test_a_picture_that_takes_too_long_is_given_up():
    workers = ImageWorkers(MediaSettings(workers=1, timeout_s=0.5))
    workers.decode_now(SMALL, MODEL)
    stalled = only_child()
    os.kill(stalled, signal.SIGSTOP)
    with pytest.raises(InvalidImage, match=r"cannot decode image \(it was not done after 0.5 s, the limit"):
        workers.decode_now(SMALL, MODEL)
    assert workers.decode_now(SMALL, MODEL).original == (64, 96)
    assert only_child() != stalled
    workers.close()


def test_a_picture_that_needs_too_much_memory_is_refused_and_the_worker_lives():
    workers = ImageWorkers(MediaSettings(workers=1, worker_memory_bytes=32 * MIB))
    workers.decode_now(SMALL, MODEL)
    worker = only_child()
    bomb = encoded(PIL.Image.new("L", (6000, 6000)), compress_level=1)
    assert len(bomb) < MIB
    with pytest.raises(ImageTooLarge, match="image needs more than 32 MiB of memory to decode") as caught:
        workers.decode_now(Image(bomb, param="p"), MODEL)
    assert caught.value.param == "p"
    assert workers.decode_now(SMALL, MODEL).original == (64, 96)
    assert only_child() == worker
    workers.close()


@pytest.mark.parametrize("room_mib", [30, 36, 44, 60])
def test_a_picture_with_room_for_itself_alone_is_resized_without_threads(room_mib):
    workers = ImageWorkers(MediaSettings(workers=1, worker_memory_bytes=room_mib * MIB))
    flat = encoded(PIL.Image.new("RGB", (2000, 2000), (9, 80, 200)), compress_level=1)
    small = ResizeRule(min_pixels=65_536, max_pixels=1024 * 768)
    assert workers.decode_now(Image(flat), small).pixels[::400, ::400].tolist() == [[[9, 80, 200]] * 3] * 3
    workers.close()


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"quality": 5, "method": 0}), ("JPEG", {"progressive": True})])
def test_a_codec_that_would_run_out_of_memory_is_not_called_damaged(kind, options):
    workers = ImageWorkers(MediaSettings(workers=1, worker_memory_bytes=32 * MIB))
    with pytest.raises(ImageTooLarge, match="2000 pixels wide and 2000 high"):
        workers.decode_now(Image(encoded(PIL.Image.new("RGB", (2000, 2000)), kind, **options)), MODEL)
    workers.close()


def test_a_vast_picture_leaves_this_process_small(one):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    with pytest.raises(ImageTooLarge):
        one.decode_now(Image(png_with_size(60_000, 60_000)), MODEL)
    assert resident() - before < 20 * MIB


def test_twenty_pictures_at_once_all_come_back_with_their_own_size():
    async def scene():
        workers = ImageWorkers(MediaSettings(workers=2))
        pictures = await asyncio.gather(*(workers.decode(Image(png(300 + n, 400)), MODEL) for n in range(20)))
        assert [picture.original[0] for picture in pictures] == list(range(300, 320))
        assert len(children()) <= 2
        workers.close()

    asyncio.run(scene())


def test_a_file_and_a_result_far_larger_than_a_pipe_get_through():
    noise = PIL.Image.frombytes("RGB", (1800, 1800), os.urandom(1800 * 1800 * 3))
    data = encoded(noise, compress_level=0)
    workers = ImageWorkers(MediaSettings(workers=1))
    assert len(data) > 9 * MIB
    assert workers.decode_now(Image(data), MODEL).pixels.shape == (1792, 1792, 3)
    workers.close()


def test_a_cancelled_decode_leaves_the_workers_usable(one):
    async def scene():
        worker = only_child()
        os.kill(worker, signal.SIGSTOP)
        abandoned = asyncio.create_task(one.decode(SMALL, MODEL))
        await until_busy(one)
        waiting = asyncio.create_task(one.decode(SMALL, MODEL))
        await asyncio.sleep(0)
        abandoned.cancel()
        waiting.cancel()
        await asyncio.wait([abandoned, waiting])
        assert abandoned.cancelled() and waiting.cancelled()
        os.kill(worker, signal.SIGCONT)
        assert (await one.decode(SMALL, MODEL)).original == (64, 96)
        assert only_child() == worker

    asyncio.run(scene())


@pytest.mark.row("Q04")
def test_a_worker_that_is_busy_for_somebody_who_left_is_killed_and_the_next_is_answered(one, monkeypatch):
    monkeypatch.setattr(sandbox, "LEAVING_S", 0)

    async def scene():
        worker = only_child()
        os.kill(worker, signal.SIGSTOP)
        abandoned = asyncio.create_task(one.decode(SMALL, MODEL))
        await until_busy(one)
        abandoned.cancel()
        assert (await one.decode(SMALL, MODEL)).original == (64, 96)
        assert only_child() != worker

    asyncio.run(scene())


def test_closing_leaves_no_process_and_tells_those_who_wait():
    async def scene():
        workers = ImageWorkers(MediaSettings(workers=1))
        await workers.decode(SMALL, MODEL)
        os.kill(only_child(), signal.SIGSTOP)
        waiting = [asyncio.create_task(workers.decode(SMALL, MODEL)) for _ in range(3)]
        await until_busy(workers)
        workers.close()
        for task in waiting:
            with pytest.raises(ShuttingDown):
                await task
        with pytest.raises(ShuttingDown):
            await workers.decode(SMALL, MODEL)
        assert children() == set()

    asyncio.run(scene())


def test_workers_that_never_started_close_too():
    ImageWorkers(MediaSettings()).close()
    assert children() == set()


def test_a_worker_has_few_rights(one):
    worker = Path(f"/proc/{only_child()}")
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (worker / "limits").read_text().splitlines()}
    assert limits["Max open files"] == ["8", "8"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert int(limits["Max address space"][1]) < 1024 * MIB + 200 * MIB
    assert limits["Max cpu time"][0] != "unlimited"
    assert (worker / "environ").read_bytes() == b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1\0"  # nothing of the server's
    assert {entry.name for entry in (worker / "fd").iterdir()} == {"0", "1", "2"}


def test_a_worker_does_not_outlive_its_parent():
    scene = (
        "import sys; sys.path[:] = sys.argv[1:]\n"
        "from sightline.media.sandbox import _Worker\n"
        "from sightline.media.pictures import PROGRAM\n"
        "worker = _Worker(PROGRAM, 1 << 30)\n"
        "print(worker._child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", scene, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    poller = select.poll()
    poller.register(worker, select.POLLIN)
    assert poller.poll(10_000)
    os.close(worker)


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\4nope",
        b"\0\0\x0f\xa0" + b"[" * 4000,
        b"\0\0\0\2{}",
        b'\0\0\0\x2a{"error": "InternalError", "message": "x"}',
        b'\0\0\0\x1c{"original": [60000, 60000]}',
        b'\0\0\0\x18{"original": [64, 64.5]}',
        b'\0\0\0\x16{"original": [1, 500]}',
        b'\0\0\0\x16{"original": [64, 96]} too few pixels',
    ],
)
def test_nothing_a_worker_answers_is_believed(monkeypatch, reply):
    hostile = f"import os, sys; os.write(1, b'R'); os.read(0, 1 << 20); os.write(1, {reply!r})"
    monkeypatch.setattr(sandbox, "START", hostile)
    workers = ImageWorkers(MediaSettings(workers=1))
    with pytest.raises(InvalidImage, match="the decoder crashed on it"):
        workers.decode_now(SMALL, MODEL)
    assert children() == set()
    workers.close()


def test_a_decoder_that_cannot_start_is_our_fault_not_the_picture_s(monkeypatch):
    monkeypatch.setattr(sandbox, "START", "import a_module_that_is_not_there")
    workers = ImageWorkers(MediaSettings(workers=1))
    with pytest.raises(InternalError):
        workers.decode_now(SMALL, MODEL)
    workers.close()
