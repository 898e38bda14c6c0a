"""Every entry of the catalogue can be asked, and what is sent, declared and defaulted has its order."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.engine.constrain import GrammarCompiler
from sightline.errors import InvalidRequest, MissingField
from sightline.tasks import asking
from sightline.tasks.catalogue import TASKS, find, in_pixels
from sightline.types import Grammar, Image, PictureInfo, Sampling, Video

PICTURE = Image(b"picture")
DEFAULTS = Sampling(temperature=0.6, top_p=0.8, top_k=20)
NOTHING = {"max_tokens": None, "temperature": None, "top_p": None, "schema": None}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def sampling(name, **options):
    return asking.sampling(TASKS[name], DEFAULTS, **NOTHING | options)


def question(name, text=""):
    (message,) = asking.conversation(TASKS[name], [PICTURE], text, instructed=False).messages
    assert message.parts[0] == PICTURE
    return message.parts[-1].text


@every_task
def test_an_entry_stands_under_its_name_and_has_one_way_to_its_question(task):
    assert TASKS[task.name] is task is find(task.name)
    assert "{}" in task.template
    assert not (task.writes and task.callers_schema)
    assert bool(task.data) == bool(task.writes or task.paged)


@every_task
def test_an_entry_says_role_steps_and_the_form_of_the_output(task):
    media = [Video()] if task.max_videos else [PICTURE]
    system, user = asking.conversation(task, media, "What?", instructed=True, schema='{"type": "object"}').messages
    role, *steps, form = system.parts[0].text.split("\n")
    assert (system.role, user.role, role) == ("system", "user", task.role)
    assert role.startswith("You ")
    assert [step.split(". ")[0] for step in steps] == [str(number) for number in range(1, len(task.steps) + 1)]
    assert len(steps) >= 2
    assert form.startswith("Answer ")
    assert ("JSON only" in form) == task.structured
    assert form.endswith('schema: {"type": "object"}') == task.callers_schema


@every_task
def test_a_schema_of_ours_compiles(task, demo_model):
    if task.schema:
        tokenizer = demo_model.tokenizer
        grammars = GrammarCompiler(tokenizer.definition, tokenizer.size, demo_model.config.generation.eos)
        assert not grammars.compile(Grammar(task.schema)).finished


@every_task
def test_pictures_are_needed_and_no_more_than_declared(task):
    with pytest.raises(InvalidRequest, match="videos is empty" if task.max_videos else "images is empty"):
        asking.conversation(task, [], "What?", instructed=True)
    if task.max_videos:
        with pytest.raises(InvalidRequest, match=r"videos has 2 videos.*takes 1"):
            asking.conversation(task, [Video(), Video()], "What?", instructed=True)
    if task.max_images:
        with pytest.raises(InvalidRequest, match=r"images has 2 pictures.*takes 1"):
            asking.conversation(task, [PICTURE, PICTURE], "What?", instructed=True)


def test_the_callers_text_is_the_question_and_else_the_tasks_own():
    assert question("vqa", "总额?") == "总额?"
    assert question("captioning") == "Describe the image."
    assert question("captioning", "Describe the colours.") == "Describe the colours."
    assert question("ground", " the {blue} star ") == "Locate the {blue} star."


@pytest.mark.parametrize("name", ["vqa", "ground"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_a_task_without_a_question_of_its_own_needs_text(name, text):
    with pytest.raises(InvalidRequest, match=r"^prompt is empty") as caught:
        asking.conversation(TASKS[name], [PICTURE], text, instructed=True)
    assert caught.value.param == "text"


def test_the_documentation_has_every_task_with_its_defaults():
    documented = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    table = documented.partition("| `temperature` | `max_tokens` | queue |")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert {row[0] for row in rows} == set(TASKS)
    for name, _, question, _, temperature, tokens, queue in rows:
        task = find(name)
        assert (temperature == "0") is task.greedy
        assert tokens == f"{task.max_tokens}{' a page' if task.paged else ''}"
        assert queue == task.lane
        assert task.question is None or f'"{task.question}"' in question


def test_a_model_that_was_taught_bare_questions_is_asked_them_bare():
    assert len(asking.conversation(TASKS["chart_parse"], [PICTURE], "", instructed=False).messages) == 1


def test_what_is_read_off_is_greedy_unless_the_caller_wants_otherwise():
    assert (sampling("ocr").temperature, sampling("ocr", temperature=0.3).temperature) == (0.0, 0.3)
    assert (sampling("vqa").temperature, sampling("vqa", temperature=0.0).temperature) == (0.6, 0.0)
    assert sampling("vqa", top_p=0.5) == replace(DEFAULTS, top_p=0.5, max_tokens=512, top_logprobs=0)
    assert (sampling("ocr").max_tokens, sampling("ocr", max_tokens=7).max_tokens) == (2048, 7)


def test_a_schema_is_the_callers_or_the_tasks():
    mine = json.dumps({"type": "object"})
    assert sampling("extract", schema=mine).grammar == Grammar(mine)
    assert sampling("chart_parse").grammar == Grammar(TASKS["chart_parse"].schema)
    assert sampling("vqa").grammar is None
    with pytest.raises(MissingField, match=r"'options.schema' is missing"):
        sampling("extract")
    with pytest.raises(InvalidRequest, match=r"options.schema is not used by task 'vqa'"):
        sampling("vqa", schema=mine)


def test_an_unknown_task_is_told_the_known_ones():
    with pytest.raises(InvalidRequest, match=r"'VQA'; known are vqa, captioning, chart_parse, ocr, "):
        find("VQA")


def test_boxes_are_brought_to_the_pixels_of_the_picture_as_sent():
    picture = PictureInfo(original=(500, 2000), resized=(128, 512), tokens=64)
    (box,) = in_pixels([{"bbox_2d": [0, 100, 501, 1000], "label": "star"}], [picture])
    assert box == {"bbox_2d": [0, 100, 501, 1000], "label": "star", "bbox_pixels": [0, 50, 1002, 500]}
