"""Runs a function over items in background threads, a bounded number of items ahead of their consumer."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Read], transform: Callable[[Read], Result], *, workers: int
) -> Iterator[Result]:
    """Yield `transform(read(item))` for every item, while the next ones are prepared in the background.

    Items are read one at a time and in order, since a file is read fastest from its beginning to its end; transforms
    run side by side. Results come nearly in order: where two threads start together they may change places, so a
    result must carry what it belongs to.

    Args:
        items: What to go through.
        read: Called under a lock, in the order of the items.
        transform: Called without the lock.
        workers: Number of threads, and of results ahead of the consumer; 0 does everything in the calling thread.
    """
    if workers == 0:
        for item in items:
            yield transform(read(item))
        return
    remaining, lock = iter(items), threading.Lock()

    def prepare_next() -> list[Result]:
        with lock:
            for item in remaining:
                content = read(item)
                break
            else:
                return []
        return [transform(content)]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="read_ahead")
    try:
        waiting: deque[Future[list[Result]]] = deque(pool.submit(prepare_next) for _ in range(workers))
        while waiting:
            results = waiting.popleft().result()
            if results:
                waiting.append(pool.submit(prepare_next))
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)
