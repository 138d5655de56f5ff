"""Runs Synapse for the tests, and for no longer than they live.

    python homeserver.py FOLDER -c FOLDER/homeserver.yaml

The test process holds the other end of standard input. A line `stop` is a clean shutdown. The end of input
means that the test process is gone, however it went: then FOLDER, which holds all that this server wrote, goes too.
"""

import os
import runpy
import signal
import sys
import threading

REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"


def obey(folder):
    # os.read, because a thread that waits inside sys.stdin makes the interpreter abort at its end.
    while command := os.read(0, 1024):
        if b"stop" in command:
            os.kill(os.getpid(), signal.SIGTERM)
    # Replacing the process ends its other threads at once, so none of them writes while the folder goes.
    os.execv(sys.executable, [sys.executable, "-I", "-c", REMOVE, folder])


threading.Thread(target=obey, args=(sys.argv.pop(1),), daemon=True).start()
runpy.run_module("synapse.app.homeserver", run_name="__main__", alter_sys=True)
