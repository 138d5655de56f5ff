"""The tools that this plugin was granted, as functions of the model: offered, called, and answered."""

import json

from parlour_plugin import llm, toolbox
from parlour_plugin.types import Err

# More calls at once are a mistake.
AT_ONCE = 16


class Functions:
    """Those of one request."""

    def __init__(self, offered: bool):
        self.generation = None
        self.tools = {}
        self.calls = {}
        listing = toolbox.list_tools(None) if offered else None
        if isinstance(listing, toolbox.Listing_Changed):
            self.generation = listing.value.generation
            for tool in listing.value.tools:
                self.tools[name(tool.name, self.tools)] = tool

    def __bool__(self) -> bool:
        return bool(self.tools)

    def described(self) -> str | None:
        """For the request."""
        if not self.tools:
            return None
        functions = [
            {"name": name, "description": tool.description, "parameters": json.loads(tool.parameters)}
            for name, tool in self.tools.items()
        ]
        return json.dumps({"tools": [{"type": "function", "function": function} for function in functions]})

    def hear(self, extra: str | None) -> None:
        """A call comes in pieces, which say to which call they belong."""
        for place, delta in enumerate((json.loads(extra) if extra else {}).get("tool_calls") or []):
            function = delta.get("function") or {}
            call = self.calls.setdefault(delta.get("index", place), {"id": "", "name": "", "arguments": ""})
            call["id"] = delta.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""

    def wanted(self) -> bool:
        """Whether the model waits for answers. Where it was offered nothing, it gets none."""
        return bool(self.calls and self.tools)

    def call(self, said: str) -> list[llm.Turn]:
        """Calls what the model wants called: its turn, and the answers."""
        calls = [self.calls[index] for index in sorted(self.calls)][:AT_ONCE]
        for place, call in enumerate(calls):
            call["id"] = call["id"] or f"call-{place}"
        asked = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in calls
        ]
        turns = [llm.Turn(llm.Role.ASSISTANT, said, json.dumps({"tool_calls": asked}))]
        for call in calls:
            answer = self.answer(call["name"], call["arguments"] or "{}")
            turns.append(llm.Turn(llm.Role.TOOL, answer, json.dumps({"tool_call_id": call["id"]})))
        return turns

    def answer(self, function: str, arguments: str) -> str:
        tool = self.tools.get(function)
        if tool is None:
            return f"There is no function {function}."
        try:
            return toolbox.for_a_model(toolbox.call_tool(tool.name, arguments, self.generation))
        except Err as failure:
            reason = failure.value.message or failure.value.kind.name.lower()
            return toolbox.as_data(tool.name, f"It did not work: {reason}")


def name(tool: str, taken: dict) -> str:
    """What the model calls it: endpoints take letters, digits, `_` and `-`, at most 64."""
    plain = tool.replace(".", "__")
    if len(plain) <= 64 and plain not in taken:
        return plain
    return f"{plain[:60]}_{len(taken)}"
