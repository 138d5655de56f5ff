"""Files of the message that is being handled. Needs the grant `media`."""

from wit_world.imports.media import *
from wit_world.imports.media import fetch, read

PIECE = 1024 * 1024


def whole(handle: str) -> bytes:
    """All of a file."""
    size = fetch(handle).size
    return b"".join(read(handle, offset, PIECE) for offset in range(0, size, PIECE))
