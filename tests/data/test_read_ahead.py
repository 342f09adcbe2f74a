"""Reading ahead changes when things happen, not what comes out."""

import threading

import pytest

from state_hf.data.read_ahead import read_ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_item_comes_once(workers):
    results = list(read_ahead(range(50), lambda item: item, lambda item: item * 2, workers=workers))
    assert sorted(results) == [2 * item for item in range(50)]
    assert workers > 1 or results == sorted(results)


@pytest.mark.parametrize("workers", [0, 2])
def test_reads_are_in_order_and_one_at_a_time(workers):
    seen, reading = [], threading.Semaphore(1)

    def read(item: int) -> int:
        assert reading.acquire(blocking=False)
        seen.append(item)
        reading.release()
        return item

    list(read_ahead(range(30), read, lambda item: item, workers=workers))
    assert seen == list(range(30))


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_than_the_workers_run_ahead(workers):
    started = []
    results = read_ahead(range(30), lambda item: item, lambda item: started.append(item) or item, workers=workers)
    next(results)
    results.close()
    assert len(started) <= 1 + 2 * workers


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_reaches_the_consumer(workers):
    def read(item: int) -> int:
        if item == 3:
            raise ValueError("item 3 is broken")
        return item

    with pytest.raises(ValueError, match="item 3 is broken"):
        list(read_ahead(range(30), read, lambda item: item, workers=workers))
