"""Attacks as they are written in Python: by its standard library, and by what the language lets one catch and change."""

import json
import os
import re
import sys

from parlour_plugin import llm, log, outbox, toolbox
from parlour_plugin.types import Err, command, parameter
from wit_world import exports

EVENTS = []


def spin(_):
    while True:
        pass


def survive(_):
    """Catches whatever would end it."""
    while True:
        try:
            while True:
                try:
                    raise KeyboardInterrupt
                finally:
                    continue
        except BaseException:
            pass


def generate(_):
    """Never leaves a loop that is written in C."""

    def forever():
        while True:
            yield 1

    return sum(forever())


def coroutine(_):
    """An event loop of its own, in which there is always something to do."""

    class Again:
        def __await__(self):
            yield

    async def busy():
        while True:
            await Again()

    tasks = [busy() for _ in range(10)]
    while True:
        for task in tasks:
            task.send(None)


def finalize(_):
    """The end of each is the beginning of the next."""

    class Phoenix:
        def __del__(self):
            Phoenix()

    Phoenix()


def collide(count):
    """Keys that all have one place in the table."""
    step = sys.hash_info.modulus
    return f"{len({number * step: None for number in range(int(count))})} keys"


def backtrack(length):
    re.match(r"(a+)+$", "a" * int(length) + "b")
    return "no match"


def hoard(mebibytes):
    """Takes what there is, and does not take no for an answer."""
    memory = []
    while len(memory) < int(mebibytes):
        try:
            memory.append(bytearray(b"x") * (1024 * 1024))
        except MemoryError:
            pass
    return f"{len(memory)} MiB"


def power(bits):
    """One number, of so many mebibits."""
    return f"{(1 << (int(bits) * 1024 * 1024)).bit_length()} bits"


def recurse(levels):
    """In the language, where the interpreter counts, and it is told not to."""
    sys.setrecursionlimit(2**31 - 1)

    def deeper(left):
        return 0 if left == 0 else 1 + deeper(left - 1)

    return f"{deeper(int(levels))} deep"


def nest(levels):
    """In the interpreter's own stack."""
    value = []
    for _ in range(int(levels)):
        value = [value]
    sys.setrecursionlimit(2**31 - 1)
    return f"{len(repr(value))} long"


def parse(levels):
    """In its parsers."""
    depth = int(levels)
    json.loads("[" * depth + "]" * depth)
    eval("(" * depth + "1" + ")" * depth)
    return f"{depth} deep"


def giant(mebibytes):
    return "x" * (int(mebibytes) * 1024 * 1024)


def shout(_):
    for _ in range(1000):
        log.warn("ok\nWARN agent a: forged \x1b[2J")
        print("ok\rWARN agent a: forged \x1b[2J", file=sys.stderr)
    return "shouted"


def exit(how):
    """Ends the process, which is the host's as it thinks."""
    {"sys": lambda: sys.exit(0), "os": lambda: os._exit(0), "abort": os.abort}[how]()


def remember(how):
    """Leaves something everywhere, and says in how many places it has found it."""
    if how == "twice":
        remember("")
    found = [bool(EVENTS), hasattr(sys, "left"), "left" in os.environ, hasattr(exports.Commands, "left")]
    EVENTS.append(1)
    sys.left = os.environ["left"] = exports.Commands.left = "here"
    outbox.say = lambda text: outbox.notice(f"left: {text}")
    return str(found.count(True))


def read(path):
    try:
        with open(path) as file:
            return file.read(1000)
    except OSError as error:
        return type(error).__name__


def look(address):
    """What of the machine can be seen or done; says what worked."""

    def connect():
        import socket

        host, port = address.rsplit(":", 1)
        socket.create_connection((host, int(port)), timeout=1)

    def datagram():
        import socket

        host, port = address.rsplit(":", 1)
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (host, int(port)))

    def resolve():
        import socket

        socket.getaddrinfo("localhost", 80)

    def listen():
        import socket

        socket.create_server(("127.0.0.1", 0))

    def browse():
        import urllib.request

        urllib.request.urlopen(f"http://{address}/")

    def run():
        import subprocess

        subprocess.run(["true"], check=True)

    def thread():
        import threading

        threading.Thread(target=print).start()

    def native():
        import ctypes

        ctypes.CDLL(None).system(b"true")

    def memory():
        import ctypes

        ctypes.string_at(0, 65536)

    def share():
        import mmap

        mmap.mmap(-1, 1024)

    ways = {
        "connect": connect,
        "datagram": datagram,
        "resolve": resolve,
        "listen": listen,
        "browse": browse,
        "run": run,
        "thread": thread,
        "native": native,
        "memory": memory,
        "share": share,
        "system": lambda: os.system("true") and None,
        "fork": lambda: os.fork(),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: os.kill(os.getpid(), 9),
        "user": lambda: os.getlogin(),
        "link": lambda: os.symlink("/etc", "etc"),
        "passwords": lambda: open("/etc/passwd").read(),
        "environment file": lambda: open("/proc/self/environ").read(),
        "up": lambda: os.listdir("../.."),
        "write": lambda: open("/tmp/hostile", "w").write("x"),
        "device": lambda: open("/dev/mem", "rb").read(1),
    }
    worked = []
    for name, way in ways.items():
        try:
            way()
            worked.append(name)
        except BaseException:
            pass
    try:
        typed = sys.stdin.read()
    except (OSError, AttributeError):
        typed = ""
    files = os.listdir("/") if os.path.isdir("/") else []
    return f"worked: {worked}; seen: {sorted(os.environ)}, {sys.argv}, {files}, {typed!r}"


def reach(what):
    """Calls what it may not have been granted."""
    calls = {
        "llm": lambda: llm.ask(llm.Request([], None, None, None, None)),
        "people": lambda: outbox.send(outbox.Target_Direct("@bob:memory"), outbox.Body_Plain("hello")),
        "tools": lambda: toolbox.call("handy.answer", text="hello").untrusted,
    }
    try:
        return f"{what}: {calls[what]()}"
    except Err as refused:
        return f"{what}: {refused.value.kind.name.lower()}"


ATTACKS = {
    attack.__name__: attack
    for attack in (
        spin, survive, generate, coroutine, finalize, collide, backtrack, hoard, power, recurse, nest, parse, giant,
        shout, exit, remember, read, look, reach,
    )
}


class Commands(exports.Commands):
    def list_commands(self):
        rest = parameter("text", "What it is done with", required=False)
        return [command(name, "Attacks", rest) for name in ATTACKS]

    def run(self, call) -> None:
        outbox.say(ATTACKS[call.name](call.rest))
