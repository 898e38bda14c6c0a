"""A server that is told to stop finishes what it began; told twice, it stops. A taken port is said in one line."""

import signal
import socket
import subprocess

import openai
import pytest

from contract.serving import COMMAND, ENVIRONMENT, serving

QUESTION = {"type": "text", "text": "What is the total amount?"}


def begun(server, max_tokens):
    """A stream of exactly `max_tokens` tokens that has begun to speak."""
    stream = iter(server.ask(QUESTION, stream=True, max_tokens=max_tokens, extra_body={"ignore_eos": True}))
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    return stream


def test_a_stopping_server_finishes_its_answers_refuses_new_ones_and_exits_clean(cache):
    with serving(cache, SIGHTLINE_DRAIN_S="1000") as server:
        stream = begun(server, 1000)
        server.process.send_signal(signal.SIGTERM)
        server.logged("^stopping")
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask(QUESTION)
        assert caught.value.code == "server_shutting_down"
        assert list(stream)[-1].choices[0].finish_reason == "length"
        assert server.process.wait(60) == 0


def test_a_second_signal_ends_at_once(cache):
    with serving(cache, SIGHTLINE_DRAIN_S="1000") as server:
        begun(server, 3500)
        server.process.send_signal(signal.SIGTERM)
        server.logged("^stopping")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == -signal.SIGTERM


def test_a_taken_port_is_one_line_and_exit_code_3():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "serve", "--port", port], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"sightline: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port"
    ]
