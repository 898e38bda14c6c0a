"""Promises about reading a document: each page counts for itself, and what is merged says where it is from."""

import json
from dataclasses import dataclass, field

import pytest

from fake_backend import FakeAnswer
from sightline.errors import InvalidDocument, Overloaded, PromptTooLong, ShuttingDown
from sightline.tasks.catalogue import find
from sightline.tasks.documents import DocumentReading
from sightline.types import Conversation, Delta, Document, Grammar, Message, Page, Sampling, Text, TokenLogprob, Usage
from sightline.wire_tasks import Analysis, PageAnswer

pytestmark = pytest.mark.anyio

TASK = find("doc_analyze")
MERGED = {"statements": [{"text": "Both are paid.", "pages": [2, 1, 2]}, {"text": "One is late.", "pages": [3]}]}


def answering(text: str, sure: float = -0.01, finish: str = "stop", tokens: int = 3) -> tuple[Delta, ...]:
    logprobs = (TokenLogprob(text, text.encode(), sure),)
    return (
        Delta(text, tokens=(1,), logprobs=logprobs),
        Delta(finish=finish, usage=Usage(prompt_tokens=10, completion_tokens=tokens)),
    )


@dataclass
class Asked:
    """Plays an engine: `pages` by number, then `merges` in turn. An exception among them is raised once."""

    pages: dict[int, list[object]]
    merges: list[object] = field(default_factory=list)
    answers: list[FakeAnswer] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)  # of the merges
    systems: list[Message] = field(default_factory=list)  # of the pages

    async def __call__(self, conversation: Conversation, sampling: Sampling) -> FakeAnswer:
        assert all(answer.closed.is_set() for answer in self.answers), "two questions at once"
        assert conversation.may_drop_turns is False
        first, *_, last = conversation.messages[-1].parts * 2
        if isinstance(first, Page):
            self.systems += [message for message in conversation.messages if message.role == "system"]
            assert last == Text("How much?")
            played = self.pages[first.number].pop(0)
        else:
            assert isinstance(sampling.grammar, Grammar)
            self.questions.append(last.text)
            played = self.merges.pop(0)
        if isinstance(played, Exception):
            raise played
        self.answers.append(FakeAnswer(played, conversation, sampling))
        return self.answers[-1]


def reading(asked: Asked, *, instructed: bool = False) -> DocumentReading:
    document = Document(b"", param="documents[0]")
    return DocumentReading(
        TASK, [Page(document, number) for number in asked.pages], "How much?", Sampling(), asked, instructed
    )


def three(*merges: object) -> Asked:
    pages = {number: [answering(f"{number}.50")] for number in (1, 2, 3)}
    return Asked(pages, list(merges))


async def test_each_page_is_told_when_it_is_read_and_the_merged_answer_cites_them():
    asked = three(answering(json.dumps(MERGED)))
    read = reading(asked)
    pieces = [piece async for piece in read.pieces()]
    assert [piece.page for piece in pieces[:-1]] == [1, 2, 3]
    assert pieces[-1] == "Both are paid. [p. 1] [p. 2]\nOne is late. [p. 3]"
    result = read.result()
    assert result.answer == pieces[-1]
    data = Analysis.model_validate_json(json.dumps(result.data))
    assert [page.answer for page in data.pages] == ["1.50", "2.50", "3.50"]
    assert (data.merged.by, data.merged.citations) == ("model", (1, 2, 3))
    assert set(result.fields) == {"pages[0].answer", "pages[1].answer", "pages[2].answer", "merged.answer"}
    assert (result.input_tokens, result.output_tokens, result.stopped) == (40, 12, "end")


async def test_the_model_merges_from_the_question_and_the_pages_answers():
    asked = three(answering(json.dumps(MERGED)))
    await reading(asked).whole()
    assert asked.questions == ["Question: How much?\n\nPage 1: 1.50\n\nPage 2: 2.50\n\nPage 3: 3.50"]


@pytest.mark.parametrize(
    "merge",
    [
        answering(json.dumps(MERGED), sure=-2.0),
        answering('{"statements": [', finish="length", tokens=1024),
        InvalidDocument("no"),
    ],
)
async def test_a_merge_that_is_unsure_or_not_whole_gives_way_to_the_pages_own_words(merge):
    result = await reading(three(merge)).whole()
    assert result.answer == "1.50 [p. 1]\n2.50 [p. 2]\n3.50 [p. 3]"
    assert result.data["merged"]["by"] == "pages"
    assert result.confidence == pytest.approx(0.99, abs=0.001)
    assert result.stopped == "end"


async def test_one_page_needs_no_merging():
    asked = Asked({7: [answering("42.00")]})
    result = await reading(asked).whole()
    assert (result.answer, result.data["merged"]["citations"]) == ("42.00 [p. 7]", (7,))
    assert asked.questions == []


async def test_answers_too_long_for_the_context_are_merged_half_by_half():
    def told(text: str, *pages: int) -> tuple[Delta, ...]:
        return answering(json.dumps({"statements": [{"text": text, "pages": pages}]}))

    asked = three(PromptTooLong("too long"), told("a", 1), told("b", 2, 3), told("All.", 1, 2, 3))
    result = await reading(asked).whole()
    assert result.answer == "All. [p. 1] [p. 2] [p. 3]"
    assert [question.count("Page") for question in asked.questions] == [3, 1, 2, 2]
    assert asked.questions[-1].endswith("Page 1: a\n\nPage 2, 3: b")


async def test_a_merge_cut_off_by_the_context_counts_as_too_long():
    asked = three(answering("{", finish="length", tokens=5), *[answering(json.dumps(MERGED), sure=-9.0)])
    assert (await reading(asked).whole()).data["merged"]["by"] == "pages"
    assert len(asked.questions) == 2


@pytest.mark.row("P07")
async def test_a_page_that_cannot_be_read_is_marked_and_the_others_are_answered():
    asked = three(answering(json.dumps({"statements": [{"text": "Fine.", "pages": [1]}]})))
    asked.pages[2] = [InvalidDocument("the page is damaged (page 2)")]
    result = await reading(asked).whole()
    told = result.data["pages"][1]
    assert told["error"] == {"code": "document_parse_error", "message": "the page is damaged (page 2)"}
    assert (told["answer"], told["confidence"], told["stopped"]) == ("", 0.0, None)
    assert "Page 2" not in asked.questions[0]
    assert "pages[1].answer" not in result.fields


async def test_when_no_page_can_be_read_the_first_error_is_raised():
    asked = Asked({1: [InvalidDocument("first")], 2: [InvalidDocument("second")]})
    with pytest.raises(InvalidDocument, match="first"):
        await reading(asked).whole()


async def test_a_full_queue_is_waited_for_once_the_reading_has_begun():
    asked = three(answering(json.dumps(MERGED)))
    asked.pages[2].insert(0, Overloaded("full", retry_after_s=0))
    assert (await reading(asked).whole()).data["pages"][1]["answer"] == "2.50"


async def test_a_full_queue_refuses_a_document_at_its_first_page():
    asked = three()
    asked.pages[1].insert(0, Overloaded("full"))
    with pytest.raises(Overloaded):
        await reading(asked).whole()


async def test_a_server_that_stops_ends_the_reading():
    asked = three()
    asked.pages[2] = [ShuttingDown("stopping")]
    with pytest.raises(ShuttingDown):
        await reading(asked).whole()


async def test_closing_the_pieces_closes_the_question_under_way():
    asked = three()
    pieces = reading(asked).pieces()
    first = await anext(pieces)
    assert isinstance(first, PageAnswer)
    await pieces.aclose()
    assert all(answer.closed.is_set() for answer in asked.answers)
    assert len(asked.answers) == 1


async def test_each_page_is_asked_about_with_the_tasks_instructions_if_the_model_takes_them():
    for instructed in (False, True):
        asked = three(answering(json.dumps(MERGED)))
        await reading(asked, instructed=instructed).whole()
        assert [message.parts[0].text.split("\n")[0] for message in asked.systems] == [TASK.role] * 3 * instructed


async def test_a_merge_that_has_not_the_published_form_gives_way_to_the_pages_own_words():
    result = await reading(three(answering('{"statements": [{"text": "All is paid."}]}'))).whole()
    assert result.data["merged"]["by"] == "pages"


async def test_a_page_cut_off_says_so():
    asked = Asked({1: [answering("a b c", finish="length")]})
    result = await reading(asked).whole()
    assert result.stopped == "length"
    assert result.data["pages"][0]["stopped"] == "length"
