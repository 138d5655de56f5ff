"""HTTP requests. Needs `[asks.http]` in plugin.toml, and the grant `http`; secrets come along by themselves."""

import json as _json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from componentize_py_types import Err
from wit_world.imports import outgoing_handler
from wit_world.imports.wasi_http_types import (
    Fields, IncomingBody, Method_Delete, Method_Get, Method_Head, Method_Options, Method_Other, Method_Patch,
    Method_Post, Method_Put, OutgoingBody, OutgoingRequest, RequestOptions, Scheme_Http, Scheme_Https,
)
from wit_world.imports.streams import StreamError_Closed

_METHODS = {
    "GET": Method_Get, "HEAD": Method_Head, "POST": Method_Post, "PUT": Method_Put, "PATCH": Method_Patch,
    "DELETE": Method_Delete, "OPTIONS": Method_Options,
}
# What one write to a stream takes.
_PIECE = 4096


class Failed(Exception):
    """There is no answer: the request was denied, or something is wrong on the way. `code` says what."""

    def __init__(self, code: Any):
        self.code = code
        super().__init__(type(code).__name__.removeprefix("ErrorCode_"))


@dataclass
class Response:
    """An answer, whatever its status."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for of, value in self.headers if of.lower() == name.lower()), None)

    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        return _json.loads(self.body)


def fetch(
    url: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | str | None = None,
    json: Any = None,
    timeout: float | None = None,
) -> Response:
    """Sends a request, and waits for the whole answer; `timeout` is in seconds, for each step. A redirect is an answer."""
    parts = urlsplit(url)
    if json is not None:
        headers = {"content-type": "application/json"} | (headers or {})
        body = _json.dumps(json)
    content = body.encode() if isinstance(body, str) else body or b""
    fields = [(name, value.encode()) for name, value in (headers or {}).items()]
    if content:
        fields.append(("content-length", str(len(content)).encode()))
    request = OutgoingRequest(Fields.from_list(fields))
    known = _METHODS.get(method.upper())
    request.set_method(known() if known else Method_Other(method))
    request.set_scheme(Scheme_Http() if parts.scheme == "http" else Scheme_Https())
    request.set_authority(parts.netloc)
    request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    options = RequestOptions()
    if timeout is not None:
        nanoseconds = int(timeout * 1e9)
        options.set_first_byte_timeout(nanoseconds)
        options.set_between_bytes_timeout(nanoseconds)
    outgoing = request.body()
    try:
        future = outgoing_handler.handle(request, options)
        if content:
            with outgoing.write() as stream:
                for start in range(0, len(content), _PIECE):
                    stream.blocking_write_and_flush(content[start : start + _PIECE])
        OutgoingBody.finish(outgoing, None)
        with future:
            with future.subscribe() as ready:
                ready.block()
            answer = future.get()
        if isinstance(answer.value, Err):
            raise Failed(answer.value.value)
        return _read(answer.value.value)
    except Err as error:
        raise Failed(error.value) from None


def _read(response) -> Response:
    with response:
        with response.headers() as fields:
            headers = [(name, value.decode("utf-8", "replace")) for name, value in fields.entries()]
        status = response.status()
        incoming = response.consume()
        body = bytearray()
        with incoming.stream() as stream:
            while True:
                try:
                    body += stream.blocking_read(65536)
                except Err as error:
                    if isinstance(error.value, StreamError_Closed):
                        break
                    raise
        IncomingBody.finish(incoming).__exit__(None, None, None)
    return Response(status, headers, bytes(body))
