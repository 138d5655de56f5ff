"""A language model, as the operator set it up. Needs the grant `llm`."""

from collections.abc import Iterator

from wit_world.imports.llm import *
from wit_world.imports.llm import Piece, Request, ask


def pieces(request: Request) -> Iterator[Piece]:
    """The pieces of an answer as they come. Leaving the loop ends the request."""
    with ask(request) as answer:
        while (piece := answer.next()) is not None:
            yield piece
