"""Drives a program through a pseudo-terminal: python3 terminal.py '{"command": [...], "steps": [[what, text], ...]}'

Steps: `send` writes keys; `expect` waits for text after what was expected before; `interrupt` presses Ctrl-C again and
again until the text appears. At the end, waits for the program. Prints the exit code, then everything that it wrote.
"""

import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time

job = json.loads(sys.argv[1])
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.execvp(job["command"][0], job["command"])

everything = ""
read_to = 0


def read(seconds):
    """Adds what the program writes within this time; false at its end."""
    global everything
    if not select.select([terminal], [], [], seconds)[0]:
        return True
    try:
        data = os.read(terminal, 65536)
    except OSError:
        return False
    everything += re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", data.decode(errors="replace"))
    return bool(data)


def wait(text, each):
    """Reads until `text` appears, and does something twice a second meanwhile."""
    global read_to
    give_up = time.monotonic() + 120
    next_time = time.monotonic() + 0.5
    while (at := everything.find(text, read_to)) < 0:
        if not read(0.1) or time.monotonic() > give_up:
            sys.exit(f"waited for {text!r} in:\n{everything[read_to:]}")
        if time.monotonic() > next_time:
            each()
            next_time += 0.5
    read_to = at + len(text)


for what, text in job["steps"]:
    if what == "send":
        os.write(terminal, text.encode())
    elif what == "expect":
        wait(text, lambda: None)
    elif what == "interrupt":
        wait(text, lambda: os.write(terminal, b"\x03"))
while read(60):
    pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(everything)
