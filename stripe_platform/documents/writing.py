"""Fast and repeatable writing: new documents in large unordered batches, older ones through fenced updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pymongo import UpdateOne
    from pymongo.collection import Collection

Document = dict[str, Any]
T = TypeVar("T")

BATCH = 5_000
IN_FLIGHT = 3  # batches encoded and sent while the next one is built
DUPLICATE_KEY, INVALID = 11_000, 121


class DocumentRefusedError(RuntimeError):
    """The server refused documents for a reason that repeating cannot mend; the message names collection and rule."""


def insert_new(collection: Collection[Document], documents: Sequence[Document]) -> list[Document]:
    """Insert a batch; returns the documents that were there already. Other refusals raise `DocumentRefusedError`."""
    present, invalid = insert_reporting(collection, documents)
    if invalid:
        raise DocumentRefusedError(
            f"{len(invalid)} documents of {collection.name} break its validator (first: {invalid[0]['_id']}): "
            "the loader and documents/schemas.py disagree, correct the one that is wrong")
    return present


def insert_reporting(
    collection: Collection[Document], documents: Sequence[Document]
) -> tuple[list[Document], list[Document]]:
    """Insert a batch; returns (there already, refused by the validator). Any other refusal raises."""
    from pymongo.errors import BulkWriteError

    if not documents:
        return [], []
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        # The error's own text quotes the documents: only positions and codes leave this function.
        errors = [(e["index"], e["code"]) for e in (error.details or {}).get("writeErrors", ())]
        other = sorted({code for _, code in errors if code not in (DUPLICATE_KEY, INVALID)})
        if other or not errors:
            raise DocumentRefusedError(
                f"the document server refused a batch of {collection.name} (codes {other}): see its log") from None
        return ([documents[i] for i, code in errors if code == DUPLICATE_KEY],
                [documents[i] for i, code in errors if code == INVALID])
    return [], []


def update_fenced(collection: Collection[Document], updates: Sequence[UpdateOne]) -> int:
    """Send updates whose filters carry their fence; returns how many were newer than what stood there."""
    done = 0
    for start in range(0, len(updates), BATCH):
        done += collection.bulk_write(list(updates[start:start + BATCH]), ordered=False).matched_count
    return done


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Consecutive lists of at most `size`."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def pipelined(work: Callable[[T], Any], items: Iterable[T]) -> Iterator[Any]:
    """Results of `work(item)` in order, a few items ahead of the reader in threads; the first error stops it."""
    with ThreadPoolExecutor(IN_FLIGHT - 1) as pool:
        waiting: list[Future[Any]] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= IN_FLIGHT:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
