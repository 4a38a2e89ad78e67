"""Waiting with a deadline: a test that hangs says so instead."""

import threading
import time


def wait_until(condition, seconds=30, pause=0.01):
    """Calls `condition` until it is true, and fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no success in {seconds} seconds"
        time.sleep(pause)


def read_until(process, words, stream="stdout", seconds=120):
    """Reads the lines of a process up to one that contains `words`.

    Args:
        process: a `subprocess.Popen`, killed when the time is up.
        words: a part of the line.
        stream: which pipe to read.
        seconds: the time it may take.

    Returns:
        All lines read, the one with the words last. Without such a line the
        test fails and shows what was read.
    """
    lines = []
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        for line in getattr(process, stream):
            lines.append(line)
            if words in line:
                return lines
    finally:
        timer.cancel()
    raise AssertionError(f"no line with {words!r}:\n{''.join(lines)}")
