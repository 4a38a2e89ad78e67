"""Thread pools with a bounded queue, for calls that take long."""

import asyncio
import collections
import concurrent.futures
import threading

from stacked_rnn.serving.errors import BusyError


class Pool:
    """A pool of daemon threads: the process exits without waiting for them.

    Args:
        name: prefix of the names of the threads.
        workers: number of threads.
        max_waiting: most calls that may wait for a thread.
    """

    def __init__(self, name, workers, max_waiting):
        self._most = workers + max_waiting
        self._count, self._is_closed = 0, False
        # Those in the queue: future -> (function, arguments).
        self._calls = collections.OrderedDict()
        self._changed = threading.Condition()
        for index in range(workers):
            threading.Thread(
                target=self._work, name=f"{name}-{index}", daemon=True
            ).start()

    async def run(self, function, *arguments):
        """Calls a function in a thread and returns its result.

        A call that is cancelled in the queue leaves it at once, with its
        arguments. One that is running runs to its end, and its result is
        dropped.

        Raises:
            BusyError: too many calls are waiting.
        """
        future = concurrent.futures.Future()
        with self._changed:
            if self._count >= self._most:
                raise BusyError
            self._count += 1
            self._calls[future] = function, arguments
            self._changed.notify()
        future.add_done_callback(self._forget)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the threads once they have made all calls in the queue."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _forget(self, future):
        with self._changed:
            self._count -= 1
            self._calls.pop(future, None)

    def _work(self):
        while call := self._next():
            future, (function, arguments) = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except Exception as error:
                    future.set_exception(error)
            # Else these objects would live until the next call.
            del call, future, function, arguments

    def _next(self):
        """Waits for a call and takes it from the queue; None: it is closed."""
        with self._changed:
            while not (self._calls or self._is_closed):
                self._changed.wait()
            return self._calls.popitem(last=False) if self._calls else None
