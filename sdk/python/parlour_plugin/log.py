"""Lines for the operator's log. The host adds whose they are."""

from wit_world.imports.logging import Level, log


def debug(message: str) -> None:
    """What somebody would want to know who follows every step."""
    log(Level.DEBUG, "", message)


def info(message: str) -> None:
    """What an operator may want to know."""
    log(Level.INFO, "", message)


def warn(message: str) -> None:
    """What an operator should look at some day."""
    log(Level.WARN, "", message)


def error(message: str) -> None:
    """What an operator has to look at."""
    log(Level.ERROR, "", message)
