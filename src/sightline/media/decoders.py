"""All that decodes what callers send, in one place to hand on and to close. Knows no formats and no limits."""

from __future__ import annotations

from sightline.media.documents import DocumentWorkers
from sightline.media.pictures import ImageWorkers
from sightline.media.videos import VideoWorkers
from sightline.settings import MediaSettings


class Decoders:
    """One pool of worker processes for each medium; none starts a process before it is first needed."""

    def __init__(self, settings: MediaSettings) -> None:
        self.images = ImageWorkers(settings)
        self.documents = DocumentWorkers(settings)
        self.videos = VideoWorkers(settings, self.images)

    def close(self) -> None:
        """Kill all workers and wait until they are gone; what waits or is under way fails with ShuttingDown."""
        self.images.close()
        self.documents.close()
        self.videos.close()
