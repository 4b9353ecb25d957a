"""librdkafka (see run)."""
import sys
import threading
import time

import steady
from confluent_kafka import Consumer, Producer

boot, topic = sys.argv[1], steady.name
acked, read, sent = set(), set(), threading.Event()


def consume():
    c = Consumer({"bootstrap.servers": boot, "group.id": "g-" + topic, "auto.offset.reset": "earliest", "session.timeout.ms": 10000})
    c.subscribe([topic])
    while not sent.is_set() or not acked <= read:
        m = c.poll(0.2)
        if m is not None and not m.error():
            read.add(m.value())
            steady.say("read", "%d %d:%d" % (int(m.value()), m.partition(), m.offset()))
    c.close()


def delivered(error, m):
    if error is not None:
        steady.error(RuntimeError(str(error)))
    else:
        acked.add(m.value())
        steady.say("acked", m.value().decode())


reader = threading.Thread(target=consume)
producer = Producer({"bootstrap.servers": boot, "enable.idempotence": True, "acks": "all", "linger.ms": 2})
n = 0
while not steady.over.is_set():
    producer.produce(topic, b"%d" % n, on_delivery=delivered)
    producer.poll(0)
    if n == 0:
        producer.flush(30)  # the topic is made by it
        reader.start()
    n += 1
    time.sleep(0.001)
left = producer.flush(90)
sent.set()
reader.join()
sys.exit("%d records are neither acknowledged nor failed" % left if left else 0)
