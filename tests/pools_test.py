"""Thread pools with a bounded queue: waiting, cancelling, refusing."""

import asyncio
import gc
import threading
import weakref

import pytest

from stacked_rnn.serving import pools
from stacked_rnn.serving.errors import BusyError


def run(scenario, workers=1, max_waiting=1):
    asyncio.run(
        asyncio.wait_for(scenario(pools.Pool("p", workers, max_waiting)), 30)
    )


def test_results_and_errors_come_back():
    async def scenario(pool):
        assert await pool.run(max, 1, 2) == 2
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        assert await pool.run(max, 3, 2) == 3

    run(scenario)


def test_a_full_pool_refuses_calls_until_one_ends():
    async def scenario(pool):
        release = threading.Event()
        running = asyncio.ensure_future(pool.run(release.wait))
        await asyncio.sleep(0.05)
        waiting = asyncio.ensure_future(pool.run(max, 1, 2))
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError):
            await pool.run(max, 1, 2)
        waiting.cancel()  # its place is free though nothing has run
        await asyncio.sleep(0.05)
        again = asyncio.ensure_future(pool.run(max, 5, 6))
        running.cancel()  # a call that runs keeps its thread ...
        await asyncio.sleep(0.05)
        assert not again.done()
        release.set()  # ... to its end
        assert await again == 6

    run(scenario)


def test_a_call_that_is_cancelled_in_the_queue_lets_its_arguments_go():
    class Body:
        """An argument."""

    async def scenario(pool):
        release = threading.Event()
        running = asyncio.ensure_future(pool.run(release.wait))
        await asyncio.sleep(0.05)
        body = Body()
        left = weakref.ref(body)
        waiting = asyncio.ensure_future(pool.run(id, body))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.sleep(0.05)
        del body, waiting
        gc.collect()
        assert left() is None
        release.set()
        assert await running

    run(scenario)
