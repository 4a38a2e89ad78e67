"""Threads for calls that take long, and a bounded queue before them."""

import asyncio
import concurrent.futures
import queue
import threading


class BusyError(Exception):
    """As many calls wait as may."""


class Pool:
    """Daemon threads: the process does not wait for what still runs at its end.

    Args:
        name: of the threads.
        workers: how many calls run at the same time.
        max_waiting: most calls that wait for one of them.
    """

    def __init__(self, name, workers, max_waiting):
        self._workers, self._most = workers, workers + max_waiting
        self._count, self._lock = 0, threading.Lock()
        self._calls = queue.SimpleQueue()
        for number in range(workers):
            threading.Thread(
                target=self._work, name=f"{name}-{number}", daemon=True
            ).start()

    async def run(self, function, *arguments):
        """Calls a function in a thread.

        One that is cancelled while it waits gives up its place at once; one
        that runs already runs to its end, and nobody hears of it.

        Raises:
            BusyError: too many wait already.
        """
        with self._lock:
            if self._count >= self._most:
                raise BusyError
            self._count += 1
        future = concurrent.futures.Future()
        future.add_done_callback(self._forget)
        self._calls.put((future, function, arguments))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the threads once they have done what was asked of them."""
        for _ in range(self._workers):
            self._calls.put(None)

    def _forget(self, future):
        with self._lock:
            self._count -= 1

    def _work(self):
        while call := self._calls.get():
            future, function, arguments = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
            # Or the last call's would stay until the next one comes.
            del call, future, function, arguments
