"""Chunks of one piece of work, taken in turn by a few threads: NumPy lets go of the interpreter while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Span = TypeVar("Span")
Found = TypeVar("Found")

ENOUGH = 4  # chunks that make it worth while to start another thread


def in_threads(walk: Callable[[Iterator[Span]], Found], spans: Iterable[Span], alone: bool = False) -> list[Found]:
    """What each thread makes of the spans that it takes; together they take every span once.

    There are as many threads as torch may use, this one included, and fewer where there is little to do. No thread waits for
    another before the end, so a busy machine delays it by one span at most. With ``alone`` this thread does it all.
    """
    queue = deque(spans)
    helpers = 0 if alone else min(torch.get_num_threads(), len(queue) // ENOUGH) - 1
    if helpers < 1:
        return [walk(_taken(queue))]
    with ThreadPoolExecutor(helpers) as pool:
        others = [pool.submit(walk, _taken(queue)) for _ in range(helpers)]
        return [walk(_taken(queue)), *[other.result() for other in others]]


def _taken(queue: deque[Span]) -> Iterator[Span]:
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return
