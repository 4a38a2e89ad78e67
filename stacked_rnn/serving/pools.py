"""Thread pools with a bounded queue, for calls that take long."""

import asyncio
import concurrent.futures
import queue
import threading


class BusyError(Exception):
    """The queue is full."""


class Pool:
    """A pool of daemon threads: the process exits without waiting for them.

    Args:
        name: prefix of the names of the threads.
        workers: number of threads.
        max_waiting: most calls that may wait for a thread.
    """

    def __init__(self, name, workers, max_waiting):
        self._workers, self._most = workers, workers + max_waiting
        self._count, self._lock = 0, threading.Lock()
        self._calls = queue.SimpleQueue()
        for index in range(workers):
            threading.Thread(
                target=self._work, name=f"{name}-{index}", daemon=True
            ).start()

    async def run(self, function, *arguments):
        """Calls a function in a thread and returns its result.

        A call that is cancelled in the queue leaves it at once. One that is
        running runs to its end, and its result is dropped.

        Raises:
            BusyError: too many calls are waiting.
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
        """Ends the threads once they have made all calls in the queue."""
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
            # Else these objects would live until the next call.
            del call, future, function, arguments
