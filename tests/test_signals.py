"""What is left of Ctrl-C and SIGTERM when a task has heard one, or has ended."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embmerge.signals import signals

BOTH = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(each) for each in BOTH]


@pytest.mark.parametrize("number", BOTH)
def test_after_the_first_signal_either_one_does_what_it_did_before(number):
    before, meanwhile = handlers(), []
    with signals(threading.Event()):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        meanwhile = handlers()
    assert meanwhile == before


@pytest.mark.parametrize("error", [None, ValueError])
def test_when_a_task_has_ended_signals_do_what_they_did_before(error):
    before = handlers()
    try:
        with signals(threading.Event()) as caught:
            assert handlers() != before
            if error:
                raise error
    except ValueError:
        pass
    assert (handlers(), caught) == (before, [])


PAUSED = """
import os, signal, threading
from embmerge.signals import signals

os.setpgrp()  # as a shell does for each of its jobs
said = threading.Event()

def say(text):
    os.write(1, f"{text}\\n".encode())  # a print may be interrupted by the next one

with signals(threading.Event(), lambda: say("paused"), lambda: (say("resumed"), said.set())) as caught:
    say("ready")
    said.wait(20)
say(f"{caught} {signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL}")
"""


def test_ctrl_z_lets_the_terminal_go_and_takes_it_again_however_often():
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", PAUSED.replace("said.wait(20)", "said.wait(20); said.clear(); said.wait(20)")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGTSTP)
            assert process.stdout.readline() == "paused\n"
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "resumed\n"
        assert process.stdout.readline() == "[] True\n"
    assert process.returncode == 0


BUSY = """
import io, os, signal, threading
from embmerge.signals import signals

class Slow(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        if not came:
            came.append(True)
            os.kill(os.getpid(), signal.SIGTSTP)  # while the main thread is within a write
        return len(data)

os.setpgrp()
came, out = [], io.BufferedWriter(Slow(), 1)

def draw():
    out.write(b"the live part")
    out.flush()

with signals(threading.Event(), draw, draw):
    draw()
os.write(1, b"done\\n")
"""


def test_ctrl_z_in_the_midst_of_a_write_is_no_error():
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), process.stderr.read()
        process.send_signal(signal.SIGCONT)
        assert process.communicate() == ("done\n", "")
