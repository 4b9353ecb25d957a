"""One client of failover_bench.py, in a process of its own: writes one after the other and tells, a line each, when it began and when it had succeeded.

    failover_client.py resp|kafka|amqp JSON      # {"nodes": [[host, port], …], "target": key | topic:partition | queue, "acks": "1" | "all"}

These are the clients as people use them, with the timeouts that a cluster needs: without them a client waits for a silent node for ever, whatever the others do.
"""
import json
import sys
import time

PAUSE_S = 0.005


def tell(begin):
    print("%.6f %.6f" % (begin, time.monotonic()), flush=True)


def resp(o):
    from redis.cluster import ClusterNode, RedisCluster
    from redis.exceptions import RedisError

    client = None
    n = 0
    while True:
        begin = time.monotonic()
        n += 1
        while True:  # this write, until it succeeds
            try:
                if client is None:
                    client = RedisCluster(startup_nodes=[ClusterNode(h, p) for h, p in o["nodes"]], socket_timeout=0.5, socket_connect_timeout=0.5)
                client.set(o["target"], n)
                break
            except (RedisError, OSError) as e:
                print("# %.3f %s: %s" % (time.monotonic(), type(e).__name__, e), flush=True)
                time.sleep(0.01)
        tell(begin)
        time.sleep(PAUSE_S)


def kafka(o):
    from confluent_kafka import KafkaException, Producer

    topic, partition = o["target"].rsplit(":", 1)
    trace = {"debug": "broker,topic,metadata,protocol,msg"} if o.get("debug") else {}
    producer = Producer({**trace, "bootstrap.servers": ",".join("%s:%d" % tuple(n) for n in o["nodes"]), "acks": o["acks"], "enable.idempotence": o["acks"] == "all",
                         "linger.ms": 0, "socket.timeout.ms": 500, "request.timeout.ms": 500, "message.timeout.ms": 60000, "retry.backoff.ms": 50,
                         "retry.backoff.max.ms": 100, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "topic.metadata.refresh.fast.interval.ms": 50, **o.get("settings", {})})
    n = 0
    while True:
        begin, done = time.monotonic(), []
        n += 1
        producer.produce(topic, b"%d" % n, partition=int(partition), on_delivery=lambda error, _: done.append(error))
        while not done:
            producer.poll(0.01)
        if done[0] is None:
            tell(begin)
        else:
            print("# %.3f %s" % (time.monotonic(), KafkaException(done[0])), flush=True)
        time.sleep(PAUSE_S)


def amqp(o):
    import pika
    from pika.exceptions import AMQPError

    at, channel = 0, None
    n = 0
    while True:
        begin = time.monotonic()
        n += 1
        while True:
            try:
                if channel is None:
                    host, port = o["nodes"][at % len(o["nodes"])]
                    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port, credentials=pika.PlainCredentials("rig", "rig"), socket_timeout=1,
                                                                                   stack_timeout=1, heartbeat=2))
                    channel = connection.channel()
                    channel.confirm_delivery()
                channel.basic_publish("", o["target"], b"%d" % n, pika.BasicProperties(delivery_mode=2))
                break
            except (AMQPError, OSError) as e:
                print("# %.3f %s: %s" % (time.monotonic(), type(e).__name__, e), flush=True)
                channel = None
                at += 1
                time.sleep(0.01)
        tell(begin)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    {"resp": resp, "kafka": kafka, "amqp": amqp}[sys.argv[1]](json.loads(sys.argv[2]))
