"""The route of OpenAI's moderations, over whichever moderator there is. Knows no policy; without a moderator, nothing.

It never says that something is harmless when nobody has looked.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from sightline import strict_json, wire_moderation
from sightline.errors import ModelNotFound, NotFound
from sightline.moderation import CATEGORIES, Category, Moderator, Score
from sightline.server import bodies
from sightline.server.answers import while_connected
from sightline.server.inline import Read
from sightline.server.sources import Sources
from sightline.settings import MIB, Settings

USUAL_MODEL = "omni-moderation-latest"  # what clients send who never chose one
NOT_LOOKED_FOR = Score(0.0, flagged=False, looked_at=())


class ModerationsApi:
    """The endpoint, over one moderator or none."""

    def __init__(self, moderator: Moderator | None, sources: Sources, settings: Settings):
        self._moderator = moderator
        self._sources = sources
        self._limit = int(settings.max_body_mb * MIB)

    def routes(self) -> Sequence[tuple[str, str, Any]]:
        return (("POST", "/v1/moderations", self.create),)

    async def create(self, request: Request) -> Response:
        """POST /v1/moderations: a result for each text, or one for all parts together."""
        moderator = self._moderator
        if moderator is None:
            raise NotFound(
                "this server has no moderator, so it cannot say what is harmful; judge the content elsewhere",
                code="moderation_not_configured",
            )
        bodies.content_kind(request, bodies.JSON)
        asked = wire_moderation.parse_moderation(strict_json.read_json(await bodies.whole(request, self._limit)))
        if asked.model not in (None, USUAL_MODEL, moderator.name):
            raise ModelNotFound(
                f"model {strict_json.shown(asked.model)} is not served here; '{moderator.name}' moderates",
                param="model",
            )
        inputs = await while_connected(request.receive, self._sources.of(partial(_inputs, asked)))
        results = [
            _judged(await while_connected(request.receive, moderator.judge(text, pictures)))
            for text, pictures in inputs
        ]
        body = wire_moderation.Moderation(
            id="modr-" + secrets.token_hex(12), model=moderator.name, results=tuple(results)
        )
        return Response(body.model_dump_json(), media_type="application/json")


def _inputs(asked: wire_moderation.ModerationRequest, read: Read) -> list[tuple[str, list[bytes]]]:
    """What is judged, each with its pictures. Texts are judged one by one; parts make one input."""
    if isinstance(asked.input, str):
        return [(asked.input, [])]
    texts, pictures = [], []
    for index, part in enumerate(asked.input):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, wire_moderation.PicturePart):
            pictures.append(read(part.image_url.url, f"input[{index}].image_url.url"))
        else:
            texts.append(part.text)
    if isinstance(asked.input[0], str):
        return [(text, []) for text in texts]
    return [("\n".join(texts), pictures)]


def _judged(scores: Mapping[Category, Score]) -> wire_moderation.Judged:
    found = {category: scores.get(category, NOT_LOOKED_FOR) for category in CATEGORIES}
    return wire_moderation.Judged(
        flagged=any(score.flagged for score in found.values()),
        categories={category: score.flagged for category, score in found.items()},
        category_scores={category: score.value for category, score in found.items()},
        category_applied_input_types={category: score.looked_at for category, score in found.items()},
    )
