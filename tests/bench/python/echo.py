from parlour_plugin import outbox
from parlour_plugin.types import command, parameter
from wit_world import exports


class Commands(exports.Commands):
    def list_commands(self):
        return [command("echo", "Says what you say", parameter("text", "What to say"))]

    def run(self, call) -> None:
        outbox.say(call.rest)
