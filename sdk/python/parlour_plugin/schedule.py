"""Timers of this plugin, which its `Timers` handles when they are due. Needs the grant `timers`.

Setting and cancelling is queued like any effect: it is done once the handler has returned.
"""

from datetime import datetime

from wit_world.imports.schedule import CatchUp, Timer, cancel, list
from wit_world.imports.schedule import at as _at, every as _every


def at(when: datetime | float, payload: str, key: str | None = None, catch_up: CatchUp = CatchUp.ONCE) -> Timer:
    """Sets a timer for a time, or for milliseconds since 1970."""
    milliseconds = when.timestamp() * 1000 if isinstance(when, datetime) else float(when)
    return _at(key, milliseconds, payload, catch_up)


def every(cron: str, zone: str, payload: str, key: str | None = None, catch_up: CatchUp = CatchUp.ONCE) -> Timer:
    """Sets one that comes again: five fields of cron, read in a time zone."""
    return _every(key, cron, zone, payload, catch_up)
