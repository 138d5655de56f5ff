"""What a handler wants done. Every call only queues: nothing leaves before the handler has returned."""

from wit_world.imports.outbox import *
from wit_world.imports.outbox import Target_Here, send, send_file
from .types import Body, Body_Markdown, Body_Notice, Body_Plain


def say(text: str) -> int:
    """Says something where the event happened, as it is."""
    return send(Target_Here(), Body_Plain(text))


def markdown(text: str) -> int:
    """Says something where the event happened, in CommonMark."""
    return send(Target_Here(), Body_Markdown(text))


def notice(text: str) -> int:
    """Says something quietly where the event happened: a notice, which well-behaved bots don't answer."""
    return send(Target_Here(), Body_Notice(text))


def file(handle: str, caption: Body | None = None) -> int:
    """Sends a file where the event happened: one that `media.make` has made, or one that came with the message."""
    return send_file(Target_Here(), handle, caption)
