"""Programs that people run against OpenAI, run unchanged against us: each in its own environment, on a live port.

`make clients` makes the environments, of requirements/clients/ and tests/contract/clients/package-lock.json.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from contract.serving import PATIENCE_S

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "contract" / "clients"
ENVIRONMENTS = ROOT / ".venv" / "clients"
RECEIPT = ROOT / "tests" / "golden" / "samples" / "receipt_1.png"
# What these libraries would ask of the internet: prices, updates, somebody to report to.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "DO_NOT_TRACK": "1",
}
# The demo model was not taught tools: it is made to call them, and what it puts in is valid and wrong.
OPENAI_PYTHON = {
    "models": ["sightline-demo"],
    "answer": "39.63",
    "cost": True,
    "streamed": "39.63",
    "in_pieces": True,
    "next_turn": "2021-07-01",
    "structured": [39.63, "Urban Foods"],
    "tool": ["tool_calls", "save_receipt", True],
    "tool_streamed": [True],
    "after_tool": "chat.completion",
    "bad_picture": ["BadRequestError", "invalid_image_format", "messages[0].content[0]", True],
    "bad_model": ["NotFoundError", "model_not_found", "model", True],
    "bad_field": ["BadRequestError", "unsupported_parameter", "audio", True],
    "several": ["39.63", "2021-07-01"],
}
SAID = {
    "requests": {
        "base64": "39.63",
        "took_time": True,
        "without_prefix": "39.63",
        "form": "39.63",
        "task": "39.63",
        "task_is_sure": True,
        "task_streamed": "39.63",
        "task_final": "39.63",
        "refused": [400, "invalid_image_format"],
        "refused_task": 1001,
    },
    "openai_2": OPENAI_PYTHON,
    "openai_3": OPENAI_PYTHON,
    "langchain": {
        "answer": "39.63",
        "counted": True,
        "streamed": "39.63",
        "in_pieces": True,
        "next_turn": "2021-07-01",
        "batch": ["39.63", "39.63"],
        "structured": 39.63,
        "by_function": True,
        "tool": [True],
        "tool_refused": [],
        "bad_picture": "invalid_image_format",
    },
    "llama_index": {
        "answer": "39.63",
        "streamed": "39.63",
        "in_pieces": True,
        "next_turn": "2021-07-01",
        "structured": 39.63,
        "bad_picture": "invalid_image_format",
    },
    "litellm": {
        "answer": "39.63",
        "streamed": "39.63",
        "in_pieces": True,
        "structured": 39.63,
        "tool": ["save_receipt", True],
        "bad_picture": [400, True],
        "bad_model": 404,
    },
    "instructor": {"by_schema": 39.63, "by_tool": True, "growing": [True, 39.63]},
    "llm": {
        "streamed": "39.63",
        "answer": "39.63",
        "next_turn": "2021-07-01",
        "structured": ["Urban Foods", "2021-07-01"],
        "bad_option": 1,
    },
}
NODE = {
    "models": ["sightline-demo"],
    "answer": "39.63",
    "took_time": True,
    "streamed": "39.63",
    "in_pieces": True,
    "next_turn": "2021-07-01",
    "structured": 39.63,
    "tool": ["save_receipt", True],
    "tool_streamed": True,
    "bad_picture": ["BadRequestError", 400, "invalid_image_format", True],
    "bad_model": ["NotFoundError", 404, "model_not_found", True],
}


@pytest.fixture
def run(server, tmp_path):
    """Runs a program about the receipt with only what it needs of this environment; what it printed."""

    def run(*command):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": "none",
        }
        done = subprocess.run(
            [*map(str, command), str(RECEIPT)],
            env=environment | QUIET,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("name", SAID)
def test_a_python_program_gets_what_it_asked_for(run, name):
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there; make clients")
    assert run(python, PROGRAMS / f"ask_{name}.py") == SAID[name]


@pytest.mark.skipif(not (PROGRAMS / "node_modules").exists(), reason="make clients installs the package")
def test_a_node_program_gets_what_it_asked_for(run):
    ours = ROOT / ".venv" / "node" / "bin" / "node"
    assert run(ours if ours.exists() else shutil.which("node"), PROGRAMS / "ask_openai.mjs") == NODE
