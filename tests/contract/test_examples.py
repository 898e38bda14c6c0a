"""The files under examples/ do what the README says, against a live port."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams_an_answer(server):
    events = run(server, "bash", ROOT / "examples" / "stream.sh", RECEIPT, "What is the total?")
    assert events.endswith("data: [DONE]\n\n")
    assert '"content":"3"' in events
