"""A cluster of three nodes and the clients people have: redis-py's cluster client, redis-cli -c, kcat, pika, each pointed at any node, before and after one is killed."""
import os
import subprocess
import time

import pika
import redis
from redis.cluster import ClusterNode, RedisCluster

from compat import command, contains, main, same, test, until
from node import DevCluster

GOMSGCTL = os.path.join(os.path.dirname(os.environ["GOMSGD"]), "gomsgctl")


class Cluster(DevCluster):
    def __init__(self):
        super().__init__(GOMSGCTL)

    def port(self, node, protocol):
        return int(self.rows[node - 1][protocol].rsplit(":", 1)[1])

    def redis(self, node=1, **options):
        return RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", self.port(node, "resp"))], decode_responses=True, **options)

    def amqp(self, node):
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port(node, "amqp"), heartbeat=0))

    def kcat(self, node, *args, stdin=None):
        return command(["kcat", "-q", "-b", "127.0.0.1:%d" % self.port(node, "kafka")] + list(args), stdin=stdin).decode()

    def healthy(self, node=1):
        r = subprocess.run([GOMSGCTL, "-d", os.path.join(self.root, "c", "n%d" % node, "data"), "cluster", "health"], capture_output=True, timeout=20)
        return r.returncode == 0


def retried(what, fn, seconds=20):
    """What a client's own retries leave to the program: again, for a bounded time."""
    end = time.monotonic() + seconds
    while True:
        try:
            return fn()
        except (redis.RedisError, pika.exceptions.AMQPError, AssertionError) as e:
            if time.monotonic() > end:
                raise AssertionError("%s: %r" % (what, e)) from e
            time.sleep(0.05)


@test
def cluster_clients_find_their_way(_):
    with Cluster() as cluster:
        r = cluster.redis(2)
        same(len(r.get_primaries()), 3)
        for i in range(100):
            same(r.set("k%d" % i, i), True)
        same([r.get("k%d" % i) for i in range(100)], [str(i) for i in range(100)])
        pipe = r.pipeline()
        for i in range(50):
            pipe.incr("c%d" % i)
        same(pipe.execute(), [1] * 50)
        same(r.dbsize(target_nodes=RedisCluster.PRIMARIES), 150)
        copies = cluster.redis(3, read_from_replicas=True)
        until("replicas have it", lambda: all(copies.get("k%d" % i) == str(i) for i in range(100)))
        same(r.mset({"{t}a": 1, "{t}b": 2}), True)
        out = command(["redis-cli", "--cluster", "check", "127.0.0.1:%d" % cluster.port(1, "resp")]).decode()
        contains(out, "All 16384 slots covered")
        same(command(["redis-cli", "-c", "-p", str(cluster.port(3, "resp")), "GET", "k7"]).decode().strip(), "7")
        contains(cluster.kcat(1, "-L"), "3 brokers")
        cluster.kcat(2, "-P", "-t", "orders", "-X", "acks=all", stdin="".join("%d\n" % i for i in range(100)))
        same(sorted(map(int, cluster.kcat(3, "-C", "-t", "orders", "-o", "beginning", "-e").split())), list(range(100)))
        one, two = cluster.amqp(1), cluster.amqp(2)
        one.channel().queue_declare("work", durable=True)
        ch = two.channel()
        ch.confirm_delivery()
        for i in range(20):
            ch.basic_publish("", "work", b"%d" % i, pika.BasicProperties(delivery_mode=2), mandatory=True)
        three = cluster.amqp(3)
        ch = three.channel()
        got = []
        for method, _, body in ch.consume("work", inactivity_timeout=30):
            got.append(int(body))
            ch.basic_ack(method.delivery_tag)
            if len(got) == 20:
                break
        same(got, list(range(20)))
        for c in (one, two, three):
            c.close()


@test
def cluster_clients_go_on_without_a_node(_):
    with Cluster() as cluster:
        r = cluster.redis(1)
        for i in range(60):
            r.set("k%d" % i, "before")
        cluster.kcat(1, "-P", "-t", "orders", "-X", "acks=all", stdin="one\ntwo\n")
        c = cluster.amqp(1)
        c.channel().queue_declare("work", durable=True)
        ch = c.channel()
        ch.confirm_delivery()
        ch.basic_publish("", "work", b"kept", pika.BasicProperties(delivery_mode=2), mandatory=True)
        same(r.execute_command("WAIT", 1, 5000, target_nodes=r.get_primaries()[0]) is not None, True)
        cluster.dev("kill", "3")
        for i in range(60):
            retried("SET after the kill", lambda i=i: r.set("k%d" % i, "after"))
        same([r.get("k%d" % i) for i in range(60)], ["after"] * 60)
        cluster.kcat(1, "-P", "-t", "orders", "-X", "acks=all", stdin="three\n")
        same(sorted(cluster.kcat(2, "-C", "-t", "orders", "-o", "beginning", "-e").split()), ["one", "three", "two"])

        def publish():
            other = cluster.amqp(2)
            channel = other.channel()
            channel.confirm_delivery()
            channel.basic_publish("", "work", b"new", pika.BasicProperties(delivery_mode=2), mandatory=True)
            other.close()
        retried("publish after the kill", publish)
        channel = c.channel()
        bodies = []

        def take():
            method, _, body = channel.basic_get("work", auto_ack=True)
            assert method is not None, "the queue is empty"
            bodies.append(body)
        retried("get", take)
        retried("get", take)
        assert b"kept" in bodies and b"new" in bodies, bodies
        cluster.dev("start", "3")
        until("the third is back", cluster.healthy, 30)
        c.close()


if __name__ == "__main__":
    main()
