"""The only door to OpenVINO, closed to its telemetry: importing it would otherwise report every import to its makers.

With the reporting package marked as absent OpenVINO uses its own empty stand-in. This must run before its first import,
which is why it stands here.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python marks "not there"
