"""What the interfaces share, and short names for what plugins write most."""

import json

from componentize_py_types import Err

# Beside the types of `wasi:http`, the contract's have a longer name.
try:
    from wit_world.imports.types import *
    from wit_world.imports.types import Body, Body_Markdown, Body_Notice, Body_Plain
    from wit_world.imports.types import Command, Error, ErrorKind, Parameter, Role, Tool
except ImportError:
    from wit_world.imports.parlour_plugin_types import *
    from wit_world.imports.parlour_plugin_types import Body, Body_Markdown, Body_Notice, Body_Plain
    from wit_world.imports.parlour_plugin_types import Command, Error, ErrorKind, Parameter, Role, Tool

TEXT = '{"type":"string"}'

Plain = Body_Plain
Markdown = Body_Markdown
Notice = Body_Notice


def error(kind: ErrorKind, message: str, retry_after: int | None = None) -> Err:
    """An error to raise: `raise error(ErrorKind.INVALID, "no such day")`; `retry_after` is in milliseconds."""
    return Err(Error(kind, None, message, retry_after, None))


def command(name: str, description: str, *parameters: Parameter, role: Role = Role.USER) -> Command:
    """A command for everybody with this role."""
    return Command(name, description, list(parameters), role, None)


def parameter(name: str, description: str, schema: str = TEXT, required: bool = True) -> Parameter:
    """A parameter; a last one of type string takes the rest of the line."""
    return Parameter(name, description, schema, required, None)


def tool(name: str, description: str, properties: dict, required: list[str] = [], read_only: bool = False) -> Tool:
    """A tool that takes these properties, each with its JSON Schema, and no others."""
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Tool(name, None, description, json.dumps(parameters), read_only, None)
