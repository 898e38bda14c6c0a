"""Promises of the model download: resumes, verifies, and half a model is never active."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import COMMIT, MODEL, WEIGHTS, FakeHub, serving
from sightline.errors import DownloadError
from sightline.model.download import MANIFEST, Progress, downloaded, pull, resolve

CHECKPOINT = {
    "config.json": b'{"model_type": "qwen3_vl"}',
    "tokenizer.json": b"{}",
    "vocab.json": b"{}",
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# Tiny",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "model.gguf": b"GGUF",
    ".sightline.json": b'{"id": "evil/model"}',
    "onnx/config.json": b"{}",
}
NEEDED = {"config.json", "tokenizer.json", "chat_template.jinja", "README.md", "model.safetensors"}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub(dict(CHECKPOINT))) as hub:
        yield hub


class Puller:
    """Pulls from one hub into one folder, noting what was reported and how long it would have slept."""

    def __init__(self, hub: FakeHub, into: Path) -> None:
        self.hub, self.into = hub, into
        self.slept: list[float] = []
        self.reports: list[Progress] = []

    def __call__(self, source: str = "huggingface", **options: str) -> Path:
        given = {"endpoint": self.hub.url} | options
        return pull(
            MODEL, into=self.into, source=source, progress=self.reports.append, sleep=self.slept.append, **given
        )


@pytest.fixture
def puller(hub: FakeHub, tmp_path: Path) -> Puller:
    return Puller(hub, tmp_path / "models")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_pull_brings_the_files_a_checkpoint_needs_and_no_others(puller: Puller, source: str):
    folder = puller(source)
    assert contents(folder) == {name: CHECKPOINT[name] for name in NEEDED}


def test_the_merges_come_along_when_there_is_no_tokenizer_json(puller: Puller):
    del puller.hub.files["tokenizer.json"]
    assert {"vocab.json", "merges.txt"} <= set(contents(puller()))


def test_the_manifest_names_the_model_its_commit_and_a_sha256_of_every_file(puller: Puller):
    manifest = json.loads((puller() / MANIFEST).read_bytes())
    assert (manifest["id"], manifest["source"], manifest["revision"], manifest["version"]) == (
        MODEL,
        "huggingface",
        "main",
        COMMIT,
    )
    assert {f["name"]: f["sha256"] for f in manifest["files"]} == {
        name: hashlib.sha256(CHECKPOINT[name]).hexdigest() for name in NEEDED
    }


def test_a_long_listing_is_read_to_its_last_page_from_the_same_hub(puller: Puller):
    puller.hub.page_entries = 3
    assert set(contents(puller())) == NEEDED


def test_progress_counts_every_byte_once_and_ends_at_the_total(puller: Puller):
    puller()
    total = sum(len(CHECKPOINT[name]) for name in NEEDED)
    done = [report.done for report in puller.reports]
    assert puller.reports[-1].done == puller.reports[-1].total == total
    assert done == sorted(done)


def test_a_cut_connection_continues_where_it_stopped(puller: Puller):
    puller.hub.files = {name: CHECKPOINT[name] for name in ("model.safetensors", "config.json")}
    puller.hub.cuts = [100_000, 50_000]
    folder = puller()
    assert puller.hub.ranges() == [None, "bytes=100000-", "bytes=150000-"]
    assert puller.slept == [1, 2]
    assert contents(folder)["model.safetensors"] == WEIGHTS


def test_a_pull_that_gave_up_is_continued_by_the_next_one(puller: Puller):
    puller.hub.files = {name: CHECKPOINT[name] for name in ("model.safetensors", "config.json")}
    puller.hub.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"cannot download from 127.0.0.1:\d+.*5 times in a row.*--endpoint"):
        puller()
    assert downloaded(puller.into) == []
    assert resolve(MODEL, puller.into) is None
    puller.hub.asked.clear()
    assert contents(puller())["model.safetensors"] == WEIGHTS
    assert puller.hub.ranges() == ["bytes=100000-"]


def test_a_file_that_changed_on_the_hub_starts_afresh(puller: Puller):
    puller.hub.files = {name: CHECKPOINT[name] for name in ("model.safetensors", "config.json")}
    puller.hub.corrupt, puller.hub.cuts = [b"x" * len(WEIGHTS)], [100_000]  # another version, cut
    assert contents(puller())["model.safetensors"] == WEIGHTS
    asked = [headers for path, headers in puller.hub.asked if "safetensors" in path]
    assert asked[1]["range"] == "bytes=100000-"
    assert asked[1]["if-range"] == f'"{hashlib.sha256(b"x" * len(WEIGHTS)).hexdigest()}"'


def test_a_hub_that_cannot_continue_files_sends_them_whole(puller: Puller):
    puller.hub.ignore_ranges = True
    puller.hub.cuts = [10, 10, 10]
    assert contents(puller()) == {name: CHECKPOINT[name] for name in NEEDED}


def test_a_leftover_that_does_not_fit_is_thrown_away_and_fetched_once_more(puller: Puller):
    staging = puller.into / MODEL.replace("/", "--") / f".{COMMIT}.partial"
    staging.mkdir(parents=True)
    (staging / "model.safetensors.part").write_bytes(b"y" * 1000)
    assert contents(puller())["model.safetensors"] == WEIGHTS
    assert puller.hub.ranges() == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("name", "kind"), [("model.safetensors", "SHA-256"), ("config.json", "git SHA-1")], ids=["large", "small"]
)
def test_a_wrong_checksum_is_an_error_that_names_the_file_and_leaves_nothing(puller: Puller, name: str, kind: str):
    puller.hub.files = {name: CHECKPOINT[name]} | {
        n: CHECKPOINT[n] for n in ("config.json", "model.safetensors") if n != name
    }
    puller.hub.corrupt = [bytes(len(CHECKPOINT[name]))]
    with pytest.raises(
        DownloadError, match=rf"{name} from .* is damaged: its {kind} is .*; it was deleted, pull again"
    ):
        puller()
    assert list(puller.into.rglob("*.part")) == []
    assert downloaded(puller.into) == []
    assert contents(puller())[name] == CHECKPOINT[name]


def test_a_hub_that_sends_more_than_it_lists_is_stopped(puller: Puller):
    puller.hub.sizes["model.safetensors"] = 1000
    with pytest.raises(DownloadError, match=r"sent more than the 1000 bytes it lists for model\.safetensors"):
        puller()


@pytest.mark.parametrize("size", [-1, "12", None])
def test_a_listing_with_an_impossible_size_is_refused(puller: Puller, size: object):
    puller.hub.sizes["config.json"] = size
    with pytest.raises(DownloadError, match="did not answer with a file list"):
        puller()


def test_the_wait_the_hub_asks_for_is_kept(puller: Puller):
    puller.hub.refusals = [(429, {"Retry-After": "7"}), (503, {})]
    puller()
    assert puller.slept == [7, 2]
    assert "HTTP 429; trying again in 7 s" in [report.text for report in puller.reports]


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(puller: Puller):
    puller.hub.refusals = [(429, {"Retry-After": "3600"})]
    with pytest.raises(DownloadError, match="HTTP 429 and asks to wait 3600 s"):
        puller()
    assert puller.slept == []


def test_a_retry_date_is_understood(puller: Puller):
    puller.hub.refusals = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    puller()
    assert puller.slept == [0]


def test_five_failures_in_a_row_end_the_pull(puller: Puller):
    puller.hub.refusals = [(500, {})] * 5
    with pytest.raises(DownloadError, match="HTTP 500, 5 times in a row"):
        puller()
    assert puller.slept == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "private or gated.*--token"), (403, "private or gated"), (404, "check the spelling"), (418, "--endpoint")],
)
def test_a_refusal_says_what_to_check_and_is_not_repeated(puller: Puller, status: int, words: str):
    puller.hub.refusals = [(status, {})]
    with pytest.raises(DownloadError, match=words):
        puller()
    assert puller.slept == []


def test_a_revision_unknown_to_modelscope_is_named(puller: Puller):
    with pytest.raises(DownloadError, match=r"no revision 'v9' of Qwen/Tiny-VL.*'master'"):
        puller("modelscope", revision="v9")


def test_a_login_page_instead_of_json_is_recognised(puller: Puller):
    puller.hub.refusals = [(200, {})]
    with pytest.raises(DownloadError, match=r"did not answer with a file list.*login page"):
        puller()


def test_without_a_network_the_error_offers_other_ways(tmp_path: Path):
    slept: list[float] = []
    with pytest.raises(DownloadError, match=r"check the network.*--source.*--endpoint.*needs no network"):
        pull(MODEL, into=tmp_path, endpoint="http://127.0.0.1:9", sleep=slept.append)
    assert slept == [1, 2, 4, 8]


def test_the_token_reaches_the_hub_but_not_the_store_it_redirects_to(puller: Puller):
    with serving(FakeHub(dict(CHECKPOINT))) as cdn:
        puller.hub.cdn = cdn
        cdn.cuts = [5]
        assert contents(puller(token="hf_secret")) == {name: CHECKPOINT[name] for name in NEEDED}
        assert all(headers["authorization"] == "Bearer hf_secret" for _, headers in puller.hub.asked)
        assert not any("authorization" in headers for _, headers in cdn.asked)
        assert "bytes=5-" in [headers.get("range") for _, headers in cdn.asked]


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a\\..\\evil.json", "x/../../evil.json", "a\n.json"]
)
@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_file_name_that_would_leave_the_folder_stops_the_pull(puller: Puller, source: str, name: str):
    puller.hub.files[name] = b"{}"
    with pytest.raises(DownloadError, match="would leave the model's folder"):
        puller(source)
    assert not puller.into.exists()


@pytest.mark.parametrize("model_id", ["", "qwen", "../x", "a/b/c", "a/..", "a/b\n", "https://hub/a/b", "a b/c"])
def test_what_is_not_a_hub_id_is_refused_before_anything_is_asked(hub: FakeHub, tmp_path: Path, model_id: str):
    with pytest.raises(DownloadError, match="ORGANISATION/NAME"):
        pull(model_id, into=tmp_path, endpoint=hub.url)
    assert hub.asked == []


def test_a_revision_that_is_a_path_is_refused(puller: Puller):
    with pytest.raises(DownloadError, match="not a branch, tag or commit"):
        puller(revision="../../x")


@pytest.mark.parametrize("endpoint", ["hub.example", "ftp://hub.example", "https://"])
def test_an_endpoint_must_be_an_http_address(puller: Puller, endpoint: str):
    with pytest.raises(DownloadError, match="https://HOST"):
        puller(endpoint=endpoint)


def test_a_repository_without_safetensors_is_refused_with_what_it_has(puller: Puller):
    del puller.hub.files["model.safetensors"]
    with pytest.raises(
        DownloadError, match=r"needs config.json and \*.safetensors, the hub lists .*chat_template.jinja"
    ):
        puller()


def test_a_disk_that_is_too_small_is_noticed_before_the_download(puller: Puller):
    puller.hub.sizes["model.safetensors"] = 10**18
    with pytest.raises(DownloadError, match=r"GB free, the pull needs 1000000000.1 GB more.*SIGHTLINE_CACHE_DIR"):
        puller()
    assert puller.hub.ranges() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_says_so_and_keeps_what_is_there(puller: Puller):
    staging = puller.into / MODEL.replace("/", "--") / f".{COMMIT}.partial"
    staging.mkdir(parents=True)
    (staging / "model.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"is full; free some space.*continues where this stopped"):
        puller()
    assert (staging / "config.json").exists()


def test_two_pulls_at_once_download_once(hub: FakeHub, tmp_path: Path):
    hub.gate, waiting = threading.Event(), threading.Event()
    folders: list[Path] = []

    def watch(report: Progress) -> None:
        if report.text == f"waiting for another pull of {MODEL}":
            waiting.set()

    def run() -> None:
        folders.append(pull(MODEL, into=tmp_path, endpoint=hub.url, progress=watch))

    first, second = threading.Thread(target=run), threading.Thread(target=run)
    first.start()
    assert hub.at_gate.wait(10)  # the first one holds the lock once it asks for a file
    second.start()
    assert waiting.wait(10)
    hub.gate.set()
    first.join(10)
    second.join(10)
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert len(hub.ranges()) == 1


def test_a_model_that_is_here_is_not_downloaded_again(puller: Puller):
    folder = puller()
    puller.hub.asked.clear()
    assert puller() == folder
    assert not any("/resolve/" in path for path, _ in puller.hub.asked)


def test_a_pulled_model_that_lost_a_file_is_listed_as_damaged_and_mended_by_a_pull(puller: Puller):
    folder = puller()
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"cut")
    (listed,) = downloaded(puller.into)
    assert set(listed.damaged) == {"config.json", "model.safetensors"}
    assert resolve(MODEL, puller.into) is None
    puller.hub.asked.clear()
    assert puller() == folder
    assert contents(folder) == {name: CHECKPOINT[name] for name in NEEDED}
    assert not any("tokenizer.json" in path for path, _ in puller.hub.asked)


def test_what_was_pulled_is_listed_with_its_size(puller: Puller):
    folder = puller("modelscope")
    (listed,) = downloaded(puller.into)
    assert (listed.id, listed.source, listed.revision, listed.folder) == (MODEL, "modelscope", "master", folder)
    assert listed.size_bytes == sum(len(CHECKPOINT[name]) for name in NEEDED)
    assert listed.damaged == ()


def test_a_new_version_stands_beside_the_old_and_is_the_one_found(puller: Puller):
    old = puller("modelscope")
    puller.hub.files["config.json"] = b'{"model_type": "qwen3_vl_moe"}'
    new = puller("modelscope")
    assert old != new
    assert resolve(MODEL, puller.into) == new


@pytest.mark.parametrize("name", [MODEL, MODEL.lower(), "tiny-vl", "TINY-VL"])
def test_a_pulled_model_is_found_by_its_id_in_any_case(puller: Puller, name: str):
    assert resolve(name, puller.into) is None
    folder = puller()
    assert resolve(name, puller.into) == folder


def test_a_folder_is_its_own_model(tmp_path: Path):
    assert resolve(str(tmp_path), tmp_path / "models") == tmp_path
