"""The plugin's settings, as the operator wrote them. Every value is a string."""

from wit_world.imports import store


def get(key: str, default: str | None = None) -> str | None:
    """A setting, or `default` where the operator did not set it."""
    value = store.get(key)
    return default if value is None else value
