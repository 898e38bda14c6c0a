"""Builds no package without the web page. Knows where the page has to be; `make web` puts it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = "src/sightline/web/index.html"


class WebPageHook(BuildHookInterface):
    """Refuses to build without the page. An editable install, as `make` does it, may be without one for a while."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable" and not (Path(self.root) / PAGE).is_file():
            raise FileNotFoundError(f"{PAGE} is missing: the web page is not built; run make web first, or make wheel")
