"""OpenAI's batches through openai-python, on a live port with the demo model: also when the server is killed."""

import base64
import json
import os
import signal
import subprocess
from pathlib import Path

import httpx2
import openai
import pytest

from contract.serving import COMMAND, ENVIRONMENT, PATIENCE_S, Server, serving
from media.pdfs import of_pictures
from media.receipts import receipt
from sightline.store.folder import DataFolder

SAMPLES = Path(__file__).parents[1] / "golden" / "samples"
FIXTURES = Path(__file__).parent / "fixtures"  # held-out receipts 1 and 8 of training/held_out.py, by their total
TOTALS = [
    (FIXTURES / "receipt_9.04.png", "What is the total amount?", "9.04"),
    (SAMPLES / "receipt_1.png", "What is the total amount?", "39.63"),
    (FIXTURES / "receipt_43.32.png", "What is the total amount?", "43.32"),
]
KNOWN = [
    (SAMPLES / entry["image"], entry["question"], entry["model"])
    for entry in json.loads((SAMPLES / "answers.json").read_text(encoding="utf-8"))
]


def about(picture, question):
    """The body of a chat."""
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"temperature": 0, "messages": [{"role": "user", "content": content}]}


def create(client, asked):
    return begin(client, "/v1/chat/completions", [about(picture, question) for picture, question, _ in asked])


def begin(client, endpoint, bodies):
    """A batch of these bodies, each with its place as its id."""
    lines = [
        json.dumps({"custom_id": f"q{number}", "method": "POST", "url": endpoint, "body": body})
        for number, body in enumerate(bodies)
    ]
    file = client.files.create(file=("questions.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def results(client, batch):
    """What came back: (custom_id, the answer's text), in the order of the file."""
    rows = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
    return [(row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]) for row in rows]


def test_the_totals_of_three_receipts_come_back_in_a_batch(server):
    batch = create(server.client, TOTALS)
    assert batch.status == "validating"
    server.logged(f"^batch completed id={batch.id}")
    batch = server.client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 3, 0)
    assert results(server.client, batch) == [("q0", "9.04"), ("q1", "39.63"), ("q2", "43.32")]
    assert batch.usage.output_tokens > 0
    assert batch in list(server.client.batches.list())
    uploaded = server.client.files.retrieve(batch.input_file_id)
    assert (uploaded.purpose, uploaded.filename, uploaded.status) == ("batch", "questions.jsonl", "processed")
    assert {file.id for file in server.client.files.list()} >= {uploaded.id, batch.output_file_id}
    assert server.client.files.delete(uploaded.id).deleted


def test_a_batch_that_cannot_be_is_an_error_the_client_knows(server):
    with pytest.raises(openai.NotFoundError):
        server.client.batches.create(
            input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h"
        )
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    assert caught.value.param == "purpose"
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.moderations.create(input="a knife")
    assert caught.value.code == "moderation_not_configured"


@pytest.mark.row("Q07", "Q08", "F01")
def test_a_server_killed_and_stopped_finishes_its_batch_with_nothing_lost_or_doubled(cache, tmp_path):
    asked = KNOWN * 2
    data = {"SIGHTLINE_DATA_DIR": str(tmp_path)}
    server = Server(cache, **data)
    batch = create(server.client, asked)  # the model is still loading
    server.process.kill()
    server.process.wait()
    for number in (signal.SIGKILL, signal.SIGTERM):
        with serving(cache, **data) as server:
            begun = server.client.batches.retrieve(batch.id).request_counts.completed
            while (found := server.client.batches.retrieve(batch.id)).request_counts.completed < begun + 3:
                pass
            assert found.status == "in_progress"
            server.process.send_signal(number)  # in the middle of a line
            server.process.wait()
    with serving(cache, **data) as server:
        server.logged(f"^batch completed id={batch.id}")
        found = server.client.batches.retrieve(batch.id)
        assert (found.request_counts.completed, found.request_counts.failed) == (len(asked), 0)
        assert results(server.client, found) == [(f"q{i}", answer) for i, (_, _, answer) in enumerate(asked)]
        assert {path.name for path in (tmp_path / "files").iterdir()} == {batch.input_file_id, found.output_file_id}


@pytest.mark.row("Q07", "F01")
def test_a_server_killed_between_two_pages_reads_every_document_of_its_batch_once(cache, tmp_path):
    documents = [of_pictures([receipt(10 * number + page)[0] for page in range(6)]) for number in range(3)]
    bodies = [
        {"task": "doc_analyze", "documents": [base64.b64encode(document).decode()], "text": "What is the total amount?"}
        for document in documents
    ]
    data = {"SIGHTLINE_DATA_DIR": str(tmp_path)}
    with serving(cache, **data) as server:
        batch = begin(server.client, "/infer", bodies)
        while not server.client.batches.retrieve(batch.id).request_counts.completed:
            pass
        first = answered(server)
        while answered(server) < first + 2:  # pages of the second document
            pass
        assert server.client.batches.retrieve(batch.id).request_counts.completed < 3
        server.process.kill()
        server.process.wait()
    with serving(cache, **data) as server:
        server.logged(f"^batch completed id={batch.id}")
        found = server.client.batches.retrieve(batch.id)
        assert (found.request_counts.completed, found.request_counts.failed, found.error_file_id) == (3, 0, None)
        rows = [json.loads(row) for row in server.client.files.content(found.output_file_id).text.splitlines()]
        assert [row["custom_id"] for row in rows] == ["q0", "q1", "q2"]
        for row, body in zip(rows, bodies, strict=True):
            told = row["response"]["body"]["result"]
            live = httpx2.post(f"{server.url}/infer", json=body, timeout=PATIENCE_S).json()["result"]
            assert [page["page"] for page in told["data"]["pages"]] == [1, 2, 3, 4, 5, 6]
            assert told["answer"] == live["answer"]
            for page, alive in zip(told["data"]["pages"], live["data"]["pages"], strict=True):
                assert (page["answer"], page["error"]) == (alive["answer"], None)


def answered(server):
    """How many answers have ended since the start, of which a page has one."""
    return httpx2.get(f"{server.url}/v1/status").json()["totals"]["answers"]


@pytest.mark.row("Q26")
def test_a_data_folder_in_use_is_one_line_and_exit_code_3(tmp_path):
    folder = DataFolder(tmp_path)
    folder.claim()
    folder.database.touch()
    environment = ENVIRONMENT | {"SIGHTLINE_DATA_DIR": str(tmp_path)}
    command = [*COMMAND, "serve", "--port", "0"]
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    folder.release()
    assert second.returncode == 3
    assert second.stderr.splitlines()[1:] == [
        f"error: data folder {tmp_path} is in use by another server (process {os.getpid()}); stop that one, "
        "or give this one a folder of its own with SIGHTLINE_DATA_DIR"
    ]
