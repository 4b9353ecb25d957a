"""kafka-python (see run)."""
import sys
import threading
import time

import steady
from kafka import KafkaConsumer, KafkaProducer

boot, topic = sys.argv[1].split(","), steady.name
acked, read, sent = set(), set(), threading.Event()


def consume():
    c = KafkaConsumer(topic, bootstrap_servers=boot, group_id="g-" + topic, auto_offset_reset="earliest", session_timeout_ms=10000)
    while not sent.is_set() or not acked <= read:
        for messages in c.poll(200).values():
            for m in messages:
                read.add(int(m.value))
                steady.say("read", "%d %d:%d" % (int(m.value), m.partition, m.offset))
    c.close()


def delivered(n):
    acked.add(n)
    steady.say("acked", n)


reader = threading.Thread(target=consume)
producer = KafkaProducer(bootstrap_servers=boot, acks="all", enable_idempotence=True, linger_ms=2)
n = 0
while not steady.over.is_set():
    f = producer.send(topic, b"%d" % n)
    f.add_callback(lambda _, n=n: delivered(n))
    f.add_errback(steady.error)
    if n == 0:
        producer.flush(30)
        reader.start()
    n += 1
    time.sleep(0.001)
producer.flush(90)
sent.set()
reader.join()
