"""Which ways of computing can be tested on this machine: the plugin's kernels always, our own where they run."""

from __future__ import annotations

import pytest

from sightline.model.machine import read_machine
from sightline.model.own import TILES, why_not

_FLAGS = read_machine().flags
_WHY_NOT = why_not(_FLAGS)
needs_own = pytest.mark.skipif(_WHY_NOT is not None, reason=f"our own kernels: {_WHY_NOT}")
WAYS = [pytest.param(False, id="plugin"), pytest.param(True, id="own", marks=needs_own)]
TILES_OR_NOT = [False, True] if TILES.issubset(_FLAGS) else [False]  # both kinds of our own
