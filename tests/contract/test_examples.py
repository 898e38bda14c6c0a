"""The files under examples/ and the commands in docs/api.md do what is said of them, against a live port."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from media.clips import clip
from media.pdfs import receipts

ROOT = Path(__file__).parents[2]
RECEIPT = ROOT / "tests" / "golden" / "samples" / "receipt_1.png"


def run(server, *command):
    environment = os.environ | {"OPENAI_BASE_URL": f"{server.url}/v1"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_openai_python_asks_about_a_picture(server):
    assert run(server, sys.executable, ROOT / "examples" / "ask_openai.py", RECEIPT, "What is the total?") == "39.63\n"


def test_a_receipt_is_read_into_a_schema(server):
    lines = run(server, sys.executable, ROOT / "examples" / "json_schema.py", RECEIPT).splitlines()
    assert lines[-1] == "   39.63  total, Urban Foods, 2021-07-01"


def test_a_batch_asks_about_many_pictures(server):
    fixtures = Path(__file__).parent / "fixtures"
    pictures = [RECEIPT, fixtures / "receipt_9.04.png", ROOT / "README.md"]
    lines = run(server, sys.executable, ROOT / "examples" / "batch.py", "What is the total?", *pictures).splitlines()
    assert lines[:2] == [f"{pictures[0]}: 39.63", f"{pictures[1]}: 9.04"]
    assert lines[2].startswith(f"{pictures[2]}: not answered: Invalid image data: cannot decode image")
    assert lines[3] == "completed: 2 of 3 answered"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams_an_answer(server):
    events = run(server, "bash", ROOT / "examples" / "stream.sh", RECEIPT, "What is the total?")
    assert events.endswith("data: [DONE]\n\n")
    assert '"content":"3"' in events


def test_a_pdf_is_read_page_by_page(server, tmp_path):
    (tmp_path / "receipts.pdf").write_bytes(receipts(3))
    asked = (tmp_path / "receipts.pdf", "What is the total amount?", "1,3")
    environment = os.environ | {"SIGHTLINE_URL": server.url}
    command = [sys.executable, ROOT / "examples" / "read_pdf.py", *asked]
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[:2] == ["page 1 (1 of 2): 41.54", "page 3 (2 of 2): 41.77"]
    assert lines[2:] == ["41.54 [p. 1]", "41.77 [p. 3]"]


def test_openai_python_asks_about_a_clip(server, tmp_path):
    receipt = np.asarray(PIL.Image.open(RECEIPT).convert("RGB"))
    (tmp_path / "receipt.mp4").write_bytes(clip(3, 10, size=receipt.shape[:2], frame=lambda _: receipt))
    question = (tmp_path / "receipt.mp4", "What is the total amount?")
    assert run(server, sys.executable, ROOT / "examples" / "ask_video.py", *question) == "39.63\nseen: 0.0 s, 2.9 s\n"


# ---- docs/api.md: a command without an ellipsis is whole, and the JSON right below it is what it answers

DOCUMENTATION = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$|^#+ [^\n]*$", DOCUMENTATION, re.MULTILINE | re.DOTALL)
COMMANDS = [
    pytest.param(command, shown if below == "json" else "", id=command.split("\n")[0][:70])
    for (kind, command), (below, shown) in itertools.pairwise([*BLOCKS, ("", "")])
    if kind == "sh" and "curl http://localhost:8080" in command and "…" not in command
]
DIFFERS = {"request_id", "processing_time_ms"}  # from call to call


def told(shown, said):
    """Whether an answer says what was shown of it."""
    if isinstance(shown, dict):
        return all(name in said and (name in DIFFERS or told(value, said[name])) for name, value in shown.items())
    return said == (pytest.approx(shown, abs=0.02) if isinstance(shown, float) else shown)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("command", "shown"), COMMANDS)
def test_a_command_of_the_documentation_answers_as_it_says(server, tmp_path, command, shown):
    for sample in RECEIPT.parent.glob("*.png"):
        shutil.copy(sample, tmp_path)
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("http://localhost:8080", server.url)],
        cwd=tmp_path,
        env=os.environ | {"CURL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if shown.startswith("{") and "…" not in shown:
        said = json.loads(done.stdout)
        assert told(json.loads(shown), said) or told(json.loads(shown), said["result"])
