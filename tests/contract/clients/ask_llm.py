"""Simon Willison's `llm` on the command line, our server as a model in its extra-openai-models.yaml.

ask_llm.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.
"""

# /// script
# dependencies = ["llm>=0.27"]
# ///

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = f"""
- model_id: sightline
  model_name: sightline-demo
  api_base: {os.environ["OPENAI_BASE_URL"]}
  vision: true
  supports_schema: true
  supports_tools: true
"""

folder = tempfile.TemporaryDirectory()
(Path(folder.name) / "extra-openai-models.yaml").write_text(MODELS)


def llm(*arguments):
    command = [sys.executable, "-m", "llm", "prompt", "--model", "sightline", *arguments]
    environment = os.environ | {"LLM_USER_PATH": folder.name}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def ask(*arguments):
    done = llm("--attachment", sys.argv[1], *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


said = {}
said["streamed"] = ask("What is the total amount?")
said["answer"] = ask("--no-stream", "What is the total amount?")
said["next_turn"] = llm("--continue", "What is the date?").stdout.strip()
found = json.loads(ask("--schema", "merchant, date, total float", "Extract the receipt data."))
said["structured"] = [found[name] for name in ("merchant", "date")]
said["bad_option"] = llm("--option", "temperature", "3", "?").returncode

with folder:
    print(json.dumps(said))
