"""Which ways of computing can be tested on this machine: the plugin's kernels always, our own where they run."""

from __future__ import annotations

import pytest

from sightline.model.machine import read_machine
from sightline.model.own import why_not

_WHY_NOT = why_not(read_machine().flags)
needs_own = pytest.mark.skipif(_WHY_NOT is not None, reason=f"our own kernels: {_WHY_NOT}")
WAYS = [pytest.param(False, id="plugin"), pytest.param(True, id="own", marks=needs_own)]
