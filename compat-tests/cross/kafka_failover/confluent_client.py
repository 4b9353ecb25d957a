"""librdkafka. BOOTSTRAP TOPIC COUNT; see run."""
import sys
import threading
import time

from confluent_kafka import Consumer, Producer

boot, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
got, failed, over = set(), [], threading.Event()
acked = repeated = 0


def consume():
    global repeated
    c = Consumer({"bootstrap.servers": boot, "group.id": "g-" + topic, "auto.offset.reset": "earliest", "session.timeout.ms": 10000})
    c.subscribe([topic])
    while not over.is_set() and len(got) < count:
        m = c.poll(0.2)
        if m is None or m.error():
            continue
        repeated += m.value() in got
        got.add(m.value())
    c.close()


def delivered(error, _):
    global acked
    if error is not None:
        failed.append(str(error))
        return
    acked += 1
    if acked % 1000 == 0:
        print("acked", acked, flush=True)


reader = threading.Thread(target=consume)
producer = Producer({"bootstrap.servers": boot, "enable.idempotence": True, "acks": "all", "linger.ms": 2})
for i in range(count):
    producer.produce(topic, b"%d" % i, on_delivery=delivered)
    producer.poll(0)
    if i == 0:
        producer.flush(30)  # the topic is made by it
        reader.start()
    time.sleep(0.001)
left = producer.flush(90)
reader.join(90)
over.set()
reader.join()
print("acked=%d left=%d failed=%s read=%d repeated=%d" % (acked, left, failed[:2], len(got), repeated), flush=True)
sys.exit(0 if acked == count == len(got) and not failed else 1)
