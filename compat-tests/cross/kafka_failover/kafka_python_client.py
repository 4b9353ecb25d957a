"""kafka-python. BOOTSTRAP TOPIC COUNT; see run."""
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer

boot, topic, count = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])
got, failed, over = set(), [], threading.Event()
acked = repeated = 0


def consume():
    global repeated
    c = KafkaConsumer(topic, bootstrap_servers=boot, group_id="g-" + topic, auto_offset_reset="earliest", session_timeout_ms=10000)
    while not over.is_set() and len(got) < count:
        for messages in c.poll(200).values():
            for m in messages:
                repeated += m.value in got
                got.add(m.value)
    c.close()


def delivered(_):
    global acked
    acked += 1
    if acked % 1000 == 0:
        print("acked", acked, flush=True)


reader = threading.Thread(target=consume)
producer = KafkaProducer(bootstrap_servers=boot, acks="all", enable_idempotence=True, linger_ms=2)
for i in range(count):
    f = producer.send(topic, b"%d" % i)
    f.add_callback(delivered)
    f.add_errback(lambda e: failed.append(repr(e)))
    if i == 0:
        producer.flush(30)
        reader.start()
    time.sleep(0.001)
try:
    producer.flush(90)
except Exception as e:
    failed.append(repr(e))
reader.join(90)
over.set()
reader.join()
print("acked=%d failed=%s read=%d repeated=%d" % (acked, failed[:2], len(got), repeated), flush=True)
sys.exit(0 if acked == count == len(got) and not failed else 1)
