"""Asks a running Sightline about a clip, and says which seconds of it the model saw.

python examples/ask_video.py clip.mp4 "What happens in the end?"
"""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

file, question = sys.argv[1:]
client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"), api_key="none")
url = "data:video/mp4;base64," + base64.b64encode(Path(file).read_bytes()).decode()

answer = client.chat.completions.create(
    model=client.models.list().data[0].id,  # the one model that is served
    messages=[
        {
            "role": "user",
            # Two frames a second are taken unless "fps" or "num_frames" says otherwise; "start" and "end" are seconds.
            "content": [
                {"type": "video_url", "video_url": {"url": url}, "num_frames": 2},
                {"type": "text", "text": question},
            ],
        }
    ],
    temperature=0,
)
print(answer.choices[0].message.content)
(video,) = answer.sightline["videos"]
print("seen:", ", ".join(f"{second:.1f} s" for second in video["seconds"]))
