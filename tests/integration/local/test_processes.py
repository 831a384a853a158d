"""Child processes: healthy or named with their last words, asked once to end, killed when they do not."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.local.processes import ChildProcess

DEADLINE_S = 20.0
COUNTS_SIGNALS = """
    import os, signal, time
    asked = 0
    def ask(*_):
        global asked
        asked += 1
        print("asked", asked, flush=True)
    signal.signal(signal.SIGTERM, ask)
    os.write(1, b"up\\n")  # print writes the line's end by itself, and a signal may come between
    while not asked:
        time.sleep(0.01)
    time.sleep(0.3)
"""
DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up", flush=True)
    time.sleep(600)
"""


def child(tmp_path: Path, program: str, *, stop_timeout_s: float = DEADLINE_S) -> ChildProcess:
    return ChildProcess(
        "child",
        [sys.executable, "-c", textwrap.dedent(program)],
        environment={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
        log_path=tmp_path / "logs" / "child.log",
        directory=tmp_path,
        stop_timeout_s=stop_timeout_s,
    )


def says(process: ChildProcess, words: str) -> Callable[[], bool]:
    return lambda: words in process.log_tail()


def test_process_is_asked_to_end_once_however_often_it_is_stopped(tmp_path: Path) -> None:
    process = child(tmp_path, COUNTS_SIGNALS)
    with process:
        process.wait_until(says(process, "up"), timeout_s=DEADLINE_S)
        process.terminate()
        process.terminate()
        process.stop()
        process.stop()
    assert process.log_tail().splitlines() == ["up", "asked 1"]


def test_process_that_ignores_its_signal_is_killed_after_its_time(tmp_path: Path) -> None:
    process = child(tmp_path, DEAF, stop_timeout_s=0.2)
    process.start()
    process.wait_until(says(process, "up"), timeout_s=DEADLINE_S)
    pid = process.pid
    begin = time.monotonic()
    process.stop()
    assert time.monotonic() - begin < DEADLINE_S
    assert not Path(f"/proc/{pid}").exists()


def test_process_that_ends_early_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    program = "print('first')\nfor n in range(50): print(n)\nraise SystemExit('PENSTOCK_BUCKET is not set')"
    with child(tmp_path, program) as process, pytest.raises(ConfigError) as caught:
        process.wait_until(lambda: False, timeout_s=DEADLINE_S)
    assert "child ended with exit code 1" in caught.value.message
    assert "PENSTOCK_BUCKET is not set" in caught.value.message
    assert "first" not in caught.value.message


def test_process_that_never_gets_healthy_is_reported(tmp_path: Path) -> None:
    with child(tmp_path, DEAF, stop_timeout_s=0.0) as process, pytest.raises(ConfigError, match="not healthy after"):
        process.wait_until(lambda: False, timeout_s=0.05)


def test_program_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    process = ChildProcess(
        "child", [str(tmp_path / "nothing")], environment={}, log_path=tmp_path / "log", directory=tmp_path
    )
    with process, pytest.raises(ConfigError, match=r"cannot run .*nothing"):
        process.wait_until(lambda: False, timeout_s=DEADLINE_S)
