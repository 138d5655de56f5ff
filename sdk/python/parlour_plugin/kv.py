"""The plugin's own memory, which outlives the instance. What a handler writes is kept once it returns."""

import json
from typing import Any

from wit_world.imports.kv import *
from wit_world.imports.kv import Scope, get, set


def get_json(scope: Scope, key: str, default: Any = None) -> Any:
    """The value under `key`, or `default` where there is none."""
    value = get(scope, key)
    return default if value is None else json.loads(value)


def set_json(scope: Scope, key: str, value: Any) -> None:
    """Keeps any value that JSON can express under `key`."""
    set(scope, key, json.dumps(value, ensure_ascii=False).encode())


def scope_of(memory: Any) -> Scope:
    """What a `migration.memory` is called here."""
    return Scope[memory.name]
