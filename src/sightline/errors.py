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
    """A picture that cannot be used; its kin say why."""

    code = "invalid_image"


class EmptyImage(InvalidImage):
    code = "empty_image_file"


class InvalidBase64(InvalidImage):
    code = "invalid_base64_image"


class UnknownImageFormat(InvalidImage):
    """Something else than a picture."""

    code = "invalid_image_format"


class UnsupportedImage(InvalidImage):
    """A picture, of a kind that is not read here."""

    code = "unsupported_image_media_type"


class DamagedImage(InvalidImage):
    """Begins as a picture and does not go on as one."""

    code = "image_parse_error"


class ImageTooLarge(InvalidRequest):
    """More bytes or more pixels than one picture may have."""

    status = 413
    code = "image_too_large"


class InvalidVideo(InvalidRequest):
    """Not a clip of a kind that is read here, damaged, or cut off."""

    code = "video_parse_error"


class UnsupportedVideoCodec(InvalidVideo):
    code = "unsupported_video_codec"


class TooManyFrames(InvalidRequest):
    code = "too_many_frames"


class VideoTooLong(InvalidRequest):
    """Longer than the server reads, where it does not trim."""

    code = "video_too_long"


class VideoTooLarge(InvalidRequest):
    """More bytes, more pixels in a frame, or more work than one clip may have."""

    status = 413
    code = "video_too_large"


class InvalidSchema(InvalidRequest):
    code = "invalid_schema"


class PromptTooLong(InvalidRequest):
    code = "context_length_exceeded"


class RemoteMediaDisabled(InvalidRequest):
    code = "remote_media_disabled"


class InvalidDocument(InvalidRequest):
    """Not a PDF, or one that is damaged or cut off."""

    code = "document_parse_error"


class DocumentTooLarge(InvalidRequest):
    """More bytes than a document may have, or more memory than a page may take."""

    status = 413
    code = "document_too_large"


class DocumentPasswordRequired(InvalidRequest):
    code = "document_password_required"


class TooManyPages(InvalidRequest):
    code = "too_many_pages"


class InvalidMediaUrl(InvalidRequest):
    """An address that is not fetched, whatever is behind it. `code` names the medium: invalid_video_url."""

    code = "invalid_image_url"


class MediaUnreachable(InvalidRequest):
    """An address that was asked and did not give its medium. `code` names it: failed_to_download_video."""

    code = "failed_to_download_image"


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


class Conflict(InvalidRequest):
    """Not possible in the state a thing is in; asking again does not help."""

    status = 409
    code = "conflict"


class HeadersTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"


class InvalidHttp(InvalidRequest):
    """What came is no request at all; the connection is closed."""

    code = "invalid_http"


class ReceiveTimeout(InvalidRequest):
    """The request did not come whole in the time it had; the connection is closed."""

    status = 408
    code = "request_receive_timeout"


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


class StorageUnavailable(Unavailable):
    """Files and batches cannot be read or written now; questions are answered as before."""

    code = "storage_unavailable"


class ProcessingTimeout(Unavailable):
    """What was sent was not done in time, for a reason that may lie with the machine."""

    status = 504
    code = "processing_timeout"


class InternalError(SightlineError):
    """Our mistake. The text is fixed; the request id leads to the log."""


class CheckpointError(SightlineError):
    """A checkpoint folder that cannot be served; the message names the file and what is wrong with it."""

    code = "checkpoint_error"


class DownloadError(SightlineError):
    """A model could not be fetched; the message says what to try."""

    code = "download_error"


class DataFolderRefused(SightlineError):
    """The data folder is not for this server: in use, damaged, or newer than the program. The message has the path."""

    code = "data_folder_refused"


class SettingsError(SightlineError):
    """A setting that cannot be used; the message names it and where it came from."""

    code = "settings_error"
