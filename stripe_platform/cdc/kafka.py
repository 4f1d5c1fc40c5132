"""Debezium's events in Kafka topics.

Partitions are assigned, not subscribed to: the lake's manifests say where to read on, and one writer reads them all.
The group's committed offsets follow behind durable batches; they are for the eyes of who watches the lag.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from typing import Any

from stripe_platform.cdc.debezium import Record
from stripe_platform.cdc.replay import Event
from stripe_platform.cdc.slot import CaptureError
from stripe_platform.cdc.transactions import Refused

GROUP = "stripe_platform"
AT_ONCE, AT_ONCE_BYTES = 5_000, 8 << 20  # handed over in one go: records, and about so much of them
BITE = 100  # taken from the client at once: a record may be as large as the broker lets it
IDLE_SECONDS = 3.0  # nothing for that long: everything has been read. Not by watermarks: some brokers' lag behind
ANSWER_SECONDS = 20.0
# Of librdkafka's own: its chatter stays out of our streams, what matters comes as errors.
SILENT = logging.Logger("librdkafka", logging.CRITICAL + 1)


class Topics:
    """Records of every topic below a prefix; `positions`: offsets to read on from, by `topic/partition`."""

    def __init__(self, bootstrap: str, prefix: str, positions: dict[str, int], *,
                 idle_seconds: float = IDLE_SECONDS) -> None:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

        self._position = TopicPartition
        self._consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": f"{GROUP}.{prefix}", "enable.auto.commit": False,
            "auto.offset.reset": "error", "session.timeout.ms": 6000, "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": 65_536, "logger": SILENT})
        try:
            topics = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics
        except KafkaException as error:
            raise CaptureError(
                f"the Kafka broker does not answer ({error.args[0].name()}): check --from-kafka") from None
        places = [(name, n) for name, topic in sorted(topics.items()) if name.startswith(f"{prefix}.")
                  for n in sorted(topic.partitions)]
        if not places:
            raise CaptureError(f"the broker has no topic that begins with {prefix}.: check --topics, it is the"
                               " connector's topic.prefix")
        self._idle_seconds, self._idle = idle_seconds, 0.0
        self._consumer.assign([
            TopicPartition(name, n, positions.get(f"{name}/{n}", OFFSET_BEGINNING)) for name, n in places])

    def poll(self, seconds: float) -> list[Record | Refused]:
        """Records that came within so many seconds, few enough for memory; `CaptureError` where a topic is not read."""
        found: list[Record | Refused] = []
        begun, size = time.monotonic(), 0
        while len(found) < AT_ONCE and size < AT_ONCE_BYTES:
            messages = self._consumer.consume(BITE, 0.0 if found else seconds)
            for message in messages:
                error = message.error()
                if error is not None:
                    raise CaptureError(f"{message.topic()}/{message.partition()} cannot be read"
                                       f" ({error.name()}): the broker no longer has what comes after the last"
                                       " batch; begin a lake of its own, or raise the topics' retention")
                found.append(_record(message))
                size += len(message)
            if len(messages) < BITE:
                break
        # Only time spent waiting counts: between two polls a large transaction may have been landed.
        self._idle = 0.0 if found else self._idle + time.monotonic() - begun
        return found

    def exhausted(self) -> bool:
        return self._idle > self._idle_seconds

    def commit(self, positions: dict[str, int]) -> None:
        offsets = []
        for place, offset in positions.items():
            topic, _, partition = place.rpartition("/")
            offsets.append(self._position(topic, int(partition), offset))
        self._consumer.commit(offsets=offsets, asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


def write(bootstrap: str, events: Iterable[Event]) -> int:
    """Produce events to their topics, keyed as Kafka Connect keys them; how many the broker took."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20,
                         "logger": SILENT})
    failed: list[str] = []
    count = 0

    def told(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(error.name())

    for event in events:
        pair = [None if part is None else json.dumps(part, ensure_ascii=False).encode()
                for part in (event.key, event.value)]
        while True:
            try:
                producer.produce(event.topic, key=pair[0], value=pair[1], on_delivery=told)
            except BufferError:
                producer.poll(0.2)
                continue
            break
        count += 1
        producer.poll(0)
    if producer.flush(ANSWER_SECONDS * 3) or failed:
        raise CaptureError(f"the broker did not take every event ({', '.join(sorted(set(failed))) or 'no answer'}):"
                           " replay again, what it has is recognised")
    return count


def _record(message: Any) -> Record | Refused:
    place = f"{message.topic()}/{message.partition()}"
    key, value = message.key(), message.value()
    try:
        return Record(place, message.offset(), message.topic(), None if key is None else json.loads(key),
                      None if value is None else json.loads(value))
    except ValueError:
        return Refused(Record(place, message.offset(), message.topic(), None, None),
                       "key or value is no JSON: set key.converter and value.converter to JsonConverter")
