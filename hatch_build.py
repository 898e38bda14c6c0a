"""Builds no package without the web page, and says on which machines a wheel with our own kernels runs.

Knows where both have to be; `make web` and `make kernels` put them there.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = "src/sightline/web/index.html"
KERNELS = "src/sightline/model/own_kernels.so"


class PackageHook(BuildHookInterface):
    """Refuses to build without the page. An editable install, as `make` does it, may be without one for a while."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        if not (Path(self.root) / PAGE).is_file():
            raise FileNotFoundError(f"{PAGE} is missing: the web page is not built; run make web first, or make wheel")
        if self.target_name == "wheel" and (Path(self.root) / KERNELS).is_file():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
