"""The official `openai` package, release 3. The program is that of release 2: nothing in it had to change.

ask_openai_3.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY.
"""

# /// script
# dependencies = ["openai>=3,<4"]
# ///

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("ask_openai_2.py")), run_name="__main__")
