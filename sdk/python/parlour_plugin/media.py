"""Files of the message that is being handled, and files to be sent with `outbox.send_file`. Needs the grant `media`."""

from wit_world.imports.media import *
from wit_world.imports.media import append, create, fetch, read

PIECE = 1024 * 1024


def whole(handle: str) -> bytes:
    """All of a file."""
    size = fetch(handle).size
    return b"".join(read(handle, offset, PIECE) for offset in range(0, size, PIECE))


def make(name: str, content: bytes | str, mime: str | None = None) -> str:
    """Makes a file, and answers its handle. `mime` says what it is, where its first bytes don't show that."""
    content = content.encode() if isinstance(content, str) else content
    handle = create(name, mime)
    for offset in range(0, len(content), PIECE):
        append(handle, content[offset : offset + PIECE])
    return handle
