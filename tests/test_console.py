"""What every console keeps to: who gets which line, when, and what a script reads."""

import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embmerge import events as e
from embmerge.checked import Secret
from embmerge.console import Console
from embmerge.console.screen import PlainScreen
from embmerge.errors import ConnectError, EmbmergeError, Interrupted, LocalDataError
from embmerge.remote.ladder import DoctorResult

ALL_OF_IT = (e.ShardsFound("a", 2, 20), e.ClusterFailed("a", "a: connection refused", "is sshd running?"))
RESULT = DoctorResult(())


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class CountingStream(io.StringIO):
    def __init__(self):
        super().__init__()
        self.writes, self.flushed = [], 0

    def write(self, text):
        self.writes.append(text)
        return super().write(text)

    def flush(self):
        self.flushed += 1


def streams():
    return io.StringIO(), io.StringIO()


def test_every_line_is_one_flushed_write():
    out = CountingStream()
    console = Console(PlainScreen(out, out))
    threads = [
        threading.Thread(target=lambda name=name: [console(e.ShardsFound(name, n, 1)) for n in range(50)])
        for name in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out.writes) == out.flushed == 150
    assert all(text.endswith(("files\n", "file\n")) for text in out.writes)


def test_an_error_says_what_is_wrong_and_what_to_do_on_stderr():
    out, err = streams()
    Console(PlainScreen(out, err)).error(EmbmergeError("gap: rows 5 - 9 are missing", hint="look with: invoke inspect"))
    assert (out.getvalue(), err.getvalue()) == ("", "Error: gap: rows 5 - 9 are missing\n  look with: invoke inspect\n")


def test_why_a_cluster_failed_is_not_repeated_at_the_end():
    out, err = streams()
    console = Console(PlainScreen(out, err))
    for event in (*ALL_OF_IT, e.ShardsFound("b", 2, 20)):
        console(event)
    console.show(RESULT)
    console.error(ConnectError("a: connection refused", hint="is sshd running?"))
    assert err.getvalue() == "✗ connection refused\n  is sshd running?\n"


def test_quiet_does_not_trust_a_new_host_key_in_silence():
    out, err = io.StringIO(), io.StringIO()
    with Console.choose(quiet=True, out=out, err=err) as console:
        console(e.HostKeyAccepted("a", "h", "ssh-ed25519", "SHA256:abc", Path("known_hosts")))
    assert out.getvalue() == ""
    assert "SHA256:abc" in err.getvalue()


def test_quiet_leaves_errors_and_the_last_line():
    out, err = streams()
    with Console.choose(quiet=True, out=out, err=err) as console:
        for event in ALL_OF_IT:
            console(event)
        console.show(RESULT)
        console.next("invoke merge")
    assert out.getvalue() == "✓ All 0 rungs hold\n"
    assert err.getvalue() == "✗ connection refused\n  is sshd running?\n"


def test_json_is_one_document_and_the_log_goes_to_stderr():
    out, err = streams()
    with Console.choose(json=True, out=out, err=err) as console:
        console(e.ShardsFound("a", 2, 20))
        console.show(RESULT)
        console.next("invoke merge")
    assert json.loads(out.getvalue()) == {
        "ok": True,
        "doctor": {"ok": True, "rungs": [], "error": None},
        "next": ["invoke merge"],
    }
    assert err.getvalue() == "Found 2 embedding files\n"


def test_json_stays_one_document_after_an_error():
    out, err = streams()
    with Console.choose(json=True, out=out, err=err) as console:
        console.show(RESULT)
        console.error(LocalDataError("no such shard", hint="run invoke sync"))
    document = json.loads(out.getvalue())
    assert document["ok"] is False
    assert document["error"] == {
        "type": "LocalDataError",
        "message": "no such shard",
        "hint": "run invoke sync",
        "exit_code": 5,
    }


def test_json_says_which_error_came_first():
    out, err = streams()
    with Console.choose(json=True, out=out, err=err) as console:
        console.error(LocalDataError("no such shard"))
        console.error(ConnectError("connection refused"))
    assert json.loads(out.getvalue())["error"]["message"] == "no such shard"


def test_json_on_a_terminal_is_no_more_than_ascii():
    out, err = streams()
    with Console.choose(json=True, out=out, err=err) as console:
        console.show({"title": "\x9b2J \u202e \x1b]0;x\x07 東京"})
    assert out.getvalue().isascii()
    assert out.getvalue().replace("\n", "").isprintable()


def test_quiet_says_nothing_more_of_a_result_after_an_error():
    out, err = streams()
    with Console.choose(quiet=True, out=out, err=err) as console:
        console.show(RESULT)
        console.error(LocalDataError("no such shard"))
    assert (out.getvalue(), err.getvalue()) == ("", "Error: no such shard\n")


def test_an_error_is_printed_once():
    out, err = streams()
    console = Console(PlainScreen(out, err))
    console.error(LocalDataError("no such shard"))
    console.error(LocalDataError("no such shard"))
    assert err.getvalue() == "Error: no such shard\n"


def test_quiet_tells_which_rung_breaks():
    out, err = streams()
    with Console.choose(quiet=True, out=out, err=err) as console:
        console(e.Checked("TCP", ok=True, text="reached"))
        console(e.Checked("login", ok=False, text="refused"))
    assert out.getvalue() == ""
    assert "✗ login: refused" in err.getvalue()
    assert "TCP" not in err.getvalue()


def test_what_a_result_does_not_show_of_itself_is_in_no_document():
    @dataclass(frozen=True)
    class HiddenResult:
        rows: int
        place: int = field(default=7, repr=False)

    out, err = streams()
    with Console.choose(json=True, out=out, err=err) as console:
        console.show(HiddenResult(5))
    assert json.loads(out.getvalue())["hidden"] == {"rows": 5}


def test_json_stays_one_document_after_a_bug():
    out, err = streams()
    with pytest.raises(ZeroDivisionError), Console.choose(json=True, out=out, err=err):
        raise ZeroDivisionError("oops")
    assert json.loads(out.getvalue()) == {"ok": False, "error": {"type": "ZeroDivisionError", "message": "oops"}}


def test_whatever_a_result_holds_becomes_json():
    out, err = streams()
    with Console.choose(json=True, out=out, err=err) as console:
        console.show(
            {
                "nan": float("nan"),
                "inf": float("inf"),
                "secret": Secret("hunter2"),
                "error": LocalDataError("bad"),
                "pair": (1, None, True),
            }
        )
    assert json.loads(out.getvalue())["dict"] == {
        "nan": None,
        "inf": None,
        "secret": "**********",
        "error": {"type": "LocalDataError", "message": "bad", "hint": "", "exit_code": 5},
        "pair": [1, None, True],
    }


def test_a_result_is_parted_from_what_follows():
    out, err = streams()
    console = Console(PlainScreen(out, err))
    console.show(RESULT)
    console(e.MergeStarted(2))
    assert out.getvalue() == "✓ All 0 rungs hold\n\nMERGING EMBEDDINGS\nLoading 2 checkpoint files...\n"


def test_a_heartbeat_comes_after_thirty_silent_seconds():
    clock, out = Clock(), io.StringIO()
    console = Console(PlainScreen(out, out), clock=clock)
    clock.now = 29
    assert console.beat() == 1
    assert out.getvalue() == ""
    clock.now = 30
    assert console.beat() == 30
    assert out.getvalue() == "Still working\n"


def test_a_line_puts_the_heartbeat_off():
    clock, out = Clock(), io.StringIO()
    console = Console(PlainScreen(out, out), clock=clock)
    clock.now = 29
    console(e.ShardsFound("a", 2, 20))
    clock.now = 31
    assert console.beat() == 28


def test_the_heartbeat_of_a_sync_says_how_far_it_is():
    clock, out = Clock(), io.StringIO()
    console = Console(PlainScreen(out, out), clock=clock)
    shard = ("a", "cluster0_gpu0.pkl", 1, 2, 1000)
    console(e.ShardsFound("a", 2, 2000))
    console(e.SyncStarted("a", Path("x")))
    console(e.ShardStarted(*shard, resumed=0))
    clock.now = 10
    console(e.ShardProgress(*shard, done=500))
    clock.now = 15
    assert console._board.summary() == "Still syncing: 0 of 2 files, 500 B of 1.95 KB, 50 B/s, 30 s left"


def test_the_heartbeat_beats_by_itself():
    beaten = threading.Event()

    class Stream(io.StringIO):
        def flush(self):
            beaten.set()

    with Console(PlainScreen(Stream(), io.StringIO()), heartbeat=0.001):
        assert beaten.wait(10)


def test_being_stopped_is_no_error():
    out, err = streams()
    Console(PlainScreen(out, err)).error(Interrupted("stopped; 3 shards were fetched", hint="go on: invoke sync"))
    assert err.getvalue() == "Stopped; 3 shards were fetched\n  go on: invoke sync\n"


def test_lines_wait_while_the_person_is_asked():
    out = io.StringIO()

    class Screen(PlainScreen):
        def ask(self, prompt):
            console(e.ShardsFound("b", 2, 20))  # another cluster goes on meanwhile
            self.write(prompt)
            return "123456"

    console = Console(Screen(out, out))
    assert console._ask("Code: ") == "123456"
    assert out.getvalue() == "Code: \nFound 2 embedding files\n"


def test_a_question_that_is_never_answered_holds_no_error_back():
    out, asked, over = io.StringIO(), threading.Event(), threading.Event()

    class Screen(PlainScreen):
        def ask(self, prompt):
            asked.set()
            over.wait(10)  # the person presses Ctrl-C instead
            return prompt

    with Console(Screen(out, out)) as console:
        thread = threading.Thread(target=console._ask, args=("Code: ",))
        thread.start()
        assert asked.wait(10)
        console(e.ShardsFound("b", 2, 20))
        console.error(Interrupted("stopped"))
        assert out.getvalue() == "\nFound 2 embedding files\nStopped\n"
        over.set()
        thread.join()


def test_a_reader_who_leaves_stops_nothing():
    code = (
        "from embmerge.console import Console\nfrom embmerge import events as e\nimport os, sys\n"
        "with Console.choose() as console:\n"
        "    for n in range(20_000): console(e.ShardsFound('a', n, 1))\n"
        "os.write(2, b'to the end')\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "Found 0 embedding files\n"
        run.stdout.close()
        assert run.stderr.read() == "to the end"
    assert run.returncode == 0


def test_rich_is_only_imported_for_a_terminal():
    code = (
        "import sys; from embmerge.console import Console\nwith Console.choose() as c: c.say('x')\n"
        "assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
