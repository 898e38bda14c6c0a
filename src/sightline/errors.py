"""Every error a caller can meet: the value seen, the limit, the way out. Each knows its status on the wire."""

from __future__ import annotations

from typing import ClassVar


class SightlineError(Exception):
    """Base of our errors. `message` is written for the caller and is safe to send to them."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ):
        super().__init__(message)
        self.message = message
        self.param = param
        self.error_code = code or self.code
        self.retry_after_s = retry_after_s


class InvalidRequest(SightlineError):
    """The caller's mistake: something in the request cannot be used as it is."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class MissingField(InvalidRequest):
    code = "missing_required_parameter"


class UnsupportedField(InvalidRequest):
    code = "unsupported_parameter"


class InvalidImage(InvalidRequest):
    code = "invalid_image"


class ImageTooLarge(InvalidRequest):
    """More bytes or more pixels than one picture may have."""

    status = 413
    code = "image_too_large"


class InvalidSchema(InvalidRequest):
    code = "invalid_schema"


class PromptTooLong(InvalidRequest):
    code = "context_length_exceeded"


class RemoteMediaDisabled(InvalidRequest):
    code = "remote_media_disabled"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class ContentTooLarge(InvalidRequest):
    status = 413
    code = "content_too_large"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class Unavailable(SightlineError):
    """Not now, but later: `retry_after_s` says when to come back."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 5, param: str | None = None, code: str | None = None):
        super().__init__(message, param=param, code=code, retry_after_s=retry_after_s)


class ModelLoading(Unavailable):
    code = "model_loading"


class OutOfMemory(Unavailable):
    code = "out_of_memory"


class Overloaded(Unavailable):
    code = "server_overloaded"


class ShuttingDown(Unavailable):
    code = "server_shutting_down"


class InternalError(SightlineError):
    """Our mistake. The text is fixed; the request id leads to the log."""


class CheckpointError(SightlineError):
    """A checkpoint folder that cannot be served; the message names the file and what is wrong with it."""

    code = "checkpoint_error"


class DownloadError(SightlineError):
    """A model could not be fetched; the message says what to try."""

    code = "download_error"


class SettingsError(SightlineError):
    """A setting that cannot be used; the message names it and where it came from."""

    code = "settings_error"
