"""`sightline ask` puts the answer and nothing else on stdout, and every problem on stderr in one line."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from fake_backend import FakeBackend, says
from media.clips import clip
from sightline.cli import main
from sightline.errors import InvalidImage
from sightline.types import Delta, Grammar, Image, Message, Text, Usage, Video

ROOT = Path(__file__).parents[2]
RECEIPT = ROOT / "tests" / "golden" / "samples" / "receipt_1.png"


@pytest.fixture
def ask(monkeypatch, capsys):
    """Runs `sightline ask` with a backend that plays a script; returns (exit code, stdout, stderr)."""

    def run(*words, backend=None, stdin=b""):
        backend = backend or FakeBackend()
        monkeypatch.setattr("sightline.backends.local.LocalBackend", lambda settings: backend)
        monkeypatch.setattr(sys, "argv", ["sightline", "ask", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return stopped.value.code, shown.out, shown.err

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"a picture")
    return path


def test_the_demo_model_reads_a_receipt(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from sightline.cli import main; main()",
        "ask",
        RECEIPT,
        "What is the total amount?",
    ]
    environment = {"PYTHONPATH": str(ROOT / "src"), "SIGHTLINE_CACHE_DIR": str(tmp_path), "SIGHTLINE_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "39.63\n")
    assert done.stderr.startswith("demo model:")


def test_the_demo_model_watches_a_clip(tmp_path, monkeypatch, capsys):
    receipt = np.asarray(PIL.Image.open(RECEIPT).convert("RGB"))
    (tmp_path / "receipt.mp4").write_bytes(clip(3, 10, size=receipt.shape[:2], frame=lambda _: receipt))
    for name, value in (("SIGHTLINE_CACHE_DIR", str(tmp_path)), ("SIGHTLINE_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sightline", "ask", str(tmp_path / "receipt.mp4"), "What is the total amount?"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capsys.readouterr().out) == (0, "39.63\n")


def test_the_answer_is_all_that_is_on_stdout(ask, photo):
    backend = FakeBackend()
    code, out, err = ask(photo, "What is this?", backend=backend)
    assert (code, out) == (0, "Hello\n")
    assert err.splitlines() == [line for line in err.splitlines() if line.startswith("demo model:")]
    assert backend.closings == [0]
    assert backend.answers[0].closed.is_set()


def test_a_real_model_needs_no_note(ask):
    assert ask("Hello?", "--model", "some-model") == (0, "Hello\n", "")


def test_pictures_come_in_order_before_the_question_and_the_system_message_first(ask, photo):
    backend = FakeBackend()
    ask(photo, "-", "Same?", "--system", "Be brief.", backend=backend, stdin=b"another")
    assert backend.answers[0].asked.messages == (
        Message("system", (Text("Be brief."),)),
        Message("user", (Image(b"a picture", param=str(photo)), Image(b"another", param="stdin"), Text("Same?"))),
    )


@pytest.mark.parametrize("name", ["clip.mp4", "CLIP.MOV", "clip.webm", "clip.mkv"])
def test_a_file_with_the_name_of_a_clip_is_one(ask, photo, tmp_path, name):
    (tmp_path / name).write_bytes(b"a clip")
    backend = FakeBackend()
    ask(tmp_path / name, photo, "What happens?", backend=backend)
    clip, picture, _ = backend.answers[0].asked.messages[0].parts
    assert clip == Video(b"a clip", param=str(tmp_path / name))
    assert picture == Image(b"a picture", param=str(photo))


def test_a_dash_in_the_questions_place_reads_the_question_from_stdin(ask, photo):
    backend = FakeBackend()
    ask(photo, "-", backend=backend, stdin="Was ist das für ein Bild?".encode())
    assert backend.answers[0].asked.messages[0].parts[-1] == Text("Was ist das für ein Bild?")


def test_answers_are_repeatable_unless_asked_otherwise(ask):
    backend = FakeBackend()
    ask("Hi?", backend=backend)
    ask("Hi?", "--temperature", "0.9", "--seed", "3", "--max-tokens", "9", backend=backend)
    plain, drawn = (answer.sampling for answer in backend.answers)
    assert (plain.temperature, plain.top_k) == (0, 20)  # 20 is the model's own
    assert (drawn.temperature, drawn.seed, drawn.max_tokens) == (0.9, 3, 9)


def test_a_schema_is_taken_as_json_or_from_a_file(ask, tmp_path):
    schema = '{"type": "object"}'
    (tmp_path / "schema.json").write_text(schema)
    for given in (schema, tmp_path / "schema.json"):
        backend = FakeBackend()
        ask("Hi?", "--json-schema", given, backend=backend)
        assert backend.answers[0].sampling.grammar == Grammar(schema)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["missing.mp4", "What?"], "cannot read the clip missing.mp4: No such file or directory"),
        (["missing.png", "What?"], "cannot read the picture missing.png: No such file or directory"),
        ([ROOT, "What?"], "Is a directory"),
        ([RECEIPT], "add a question after it"),
        ([RECEIPT, " "], "the question is empty"),
        (["-", "-"], "can be read once"),
        (["What?", "--json-schema", "{broken"], "is not JSON"),
        (["What?", "--json-schema", "missing.json"], "cannot read the schema file missing.json"),
    ],
)
def test_input_that_cannot_be_used_is_one_line_and_exit_code_2(ask, words, problem):
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert problem in err
    assert len(err.splitlines()) == 1


def test_a_picture_that_cannot_be_read_is_named(ask, photo):
    refusal = InvalidImage("Invalid image data: cannot decode image", param=str(photo))
    code, _, err = ask(photo, "What?", backend=FakeBackend(refusal=refusal))
    assert (code, err) == (2, f"sightline: {photo}: Invalid image data: cannot decode image\n")


def test_an_interrupt_closes_the_model_and_exits_with_130(ask):
    backend = FakeBackend(KeyboardInterrupt())
    code, _, err = ask("What?", backend=backend)
    assert (code, err, backend.closings) == (130, "", [0])


def test_a_reader_who_left_is_no_reason_to_complain(ask, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    backend = FakeBackend()
    code, _, err = ask("What?", backend=backend)
    assert (code, err, backend.closings) == (1, "", [0])


def test_a_cut_answer_says_how_to_get_more(ask):
    cut = FakeBackend(Delta("One"), Delta(finish="length", usage=Usage(completion_tokens=5)))
    _, out, err = ask("What?", backend=cut)
    assert out == "One\n"
    assert "cut after 5 tokens; --max-tokens allows more" in err


def test_verbose_prints_what_it_took(ask):
    _, out, err = ask("What?", "--verbose", backend=FakeBackend(*says("Hi")))
    assert out == "Hi\n"
    assert "10 prompt tokens (4 of pictures, 3 cached), 2 answer tokens" in err


def test_the_version_is_printed_without_loading_anything_heavy():
    script = (
        "import sys; from sightline.cli import main; sys.argv = ['sightline', '--version']\n"
        "try: main()\n"
        "finally: print(sorted({'numpy', 'openvino', 'fastapi', 'structlog', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0].startswith("sightline ")
    assert done.stdout.splitlines()[1] == "[]"


def test_a_missing_extra_says_what_to_install():
    script = (
        "import sys; sys.modules['openvino'] = None; from sightline.cli import main\n"
        "sys.argv = ['sightline', 'ask', 'Hi?']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "sightline: openvino is not installed; pip install 'sightline[server]'\n"
