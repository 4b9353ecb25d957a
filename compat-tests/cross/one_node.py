"""One node, three protocols: what only GoMsg can be asked. Each test starts a node of its own, so that it may kill it."""
import os
import socket
import threading
import urllib.request

import pika
import redis

from compat import command, contains, main, same, test, unique, until
from node import Gomsgd


class Node:
    """A gomsgd for the length of a block; whatever ends it badly fails the test."""

    def __enter__(self):
        self.node = Gomsgd(os.environ["GOMSGD"])
        self.node.start()
        return self

    def __exit__(self, kind, *_):
        wrong = self.node.stop()
        if wrong and kind is None:
            raise AssertionError(wrong)

    def redis(self):
        return redis.Redis(host="127.0.0.1", port=self.node.ports["resp"], decode_responses=True, socket_timeout=20)

    def amqp(self):
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.node.ports["amqp"], heartbeat=0))

    def kcat(self, *args, stdin=None):
        return command(["kcat", "-b", "127.0.0.1:%d" % self.node.ports["kafka"]] + list(args), stdin=stdin).decode()

    def http(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.node.ports["http"], path), timeout=10) as answer:
            return answer.status, answer.read().decode()


def fill(n, tag):
    """The same hundred items in each protocol, every one acknowledged."""
    r = n.redis()
    r.mset({"%s:%d" % (tag, i): i for i in range(100)})
    r.hset("%s:hash" % tag, mapping={str(i): i for i in range(100)})
    r.lpush("%s:list" % tag, *range(100))
    n.kcat("-P", "-t", tag, "-p", "0", "-X", "acks=all", stdin="".join("%d\n" % i for i in range(100)))
    c = n.amqp()
    ch = c.channel()
    ch.queue_declare(tag, durable=True)
    ch.exchange_declare(tag, "topic", durable=True)
    ch.queue_bind(tag, tag, "%s.#" % tag)
    ch.confirm_delivery()
    for i in range(100):
        ch.basic_publish(tag, "%s.x" % tag, b"%d" % i, pika.BasicProperties(delivery_mode=2), mandatory=True)
    c.close()


def check(n, tag):
    r = n.redis()
    same(r.mget(["%s:%d" % (tag, i) for i in range(100)]), [str(i) for i in range(100)])
    same(r.hgetall("%s:hash" % tag), {str(i): str(i) for i in range(100)})
    same(r.rpop("%s:list" % tag, 100), [str(i) for i in range(100)])
    same(n.kcat("-C", "-q", "-e", "-t", tag, "-p", "0", "-o", "beginning").split(), [str(i) for i in range(100)])
    c = n.amqp()
    ch = c.channel()
    same(ch.queue_declare(tag, passive=True).method.message_count, 100)
    ch.confirm_delivery()
    ch.basic_publish(tag, "%s.later" % tag, b"100", mandatory=True)  # the binding is still there
    got = []
    for method, _properties, body in ch.consume(tag, inactivity_timeout=30):
        if method is None:
            break
        got.append(int(body))
        ch.basic_ack(method.delivery_tag)
        if len(got) == 101:
            break
    same(got, list(range(101)))
    c.close()


@test
def one_name_in_three_protocols(_t):
    with Node() as n:
        fill(n, "same")
        check(n, "same")


@test
def all_three_at_once(_t):
    with Node() as n:
        errors = []

        def guard(func):
            def run():
                try:
                    func()
                except Exception as exc:  # pylint: disable=broad-except
                    errors.append(exc)
            return run

        def resp():
            r = n.redis()
            for i in range(3000):
                r.set("k%d" % (i % 50), i)
                same(r.get("k%d" % (i % 50)), str(i))

        def kafka():
            for turn in range(6):
                n.kcat("-P", "-t", "load", "-p", "0", stdin="".join("%d\n" % i for i in range(turn * 1000, turn * 1000 + 1000)))
            same(n.kcat("-C", "-q", "-e", "-t", "load", "-p", "0", "-o", "beginning").split(), [str(i) for i in range(6000)])

        def amqp():
            c = n.amqp()
            ch = c.channel()
            ch.queue_declare("load", durable=True)
            for i in range(3000):
                ch.basic_publish("", "load", b"%d" % i, pika.BasicProperties(delivery_mode=2))
            got = []
            for _m, _p, body in ch.consume("load", auto_ack=True, inactivity_timeout=30):
                got.append(body and int(body))
                if len(got) == 3000:
                    break
            same(got, list(range(3000)))
            c.close()

        threads = [threading.Thread(target=guard(f)) for f in (resp, kafka, amqp)]
        for th in threads:
            th.start()
        for th in threads:
            th.join()
        same(errors, [])


@test
def an_orderly_restart_keeps_everything(_t):
    with Node() as n:
        fill(n, "restart")
        same(n.node.end(), None)
        n.node.start()
        check(n, "restart")


@test
def kill_nine_keeps_what_was_acknowledged(_t):
    with Node() as n:
        for turn in range(3):
            tag = "killed-%d" % turn
            fill(n, tag)
            n.node.kill()
            n.node.start()
            check(n, tag)


@test
def group_offsets_survive_a_kill(_t):
    with Node() as n:
        group = ("-G", "readers", "-q", "-e", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000")
        n.kcat("-P", "-t", "groups", stdin="".join("%d\n" % i for i in range(50)))
        same(len(n.kcat(*group, "groups").split()), 50)
        n.node.kill()
        n.node.start()
        n.kcat("-P", "-t", "groups", stdin="50\n51\n")
        same(sorted(n.kcat(*group, "groups").split()), ["50", "51"])


@test
def acknowledged_messages_do_not_come_back(_t):
    with Node() as n:
        c = n.amqp()
        ch = c.channel()
        ch.queue_declare("acks", durable=True)
        ch.confirm_delivery()
        for i in range(20):
            ch.basic_publish("", "acks", b"%d" % i, pika.BasicProperties(delivery_mode=2))
        for _ in range(10):
            method, _properties, _body = ch.basic_get("acks")
            ch.basic_ack(method.delivery_tag)
        held, _properties, body = ch.basic_get("acks")
        same((held.redelivered, body), (False, b"10"))
        ch.basic_qos(prefetch_count=1)  # an answered method: from here on the acks are final
        n.node.kill()
        n.node.start()
        ch = n.amqp().channel()
        got = []
        while True:
            method, _properties, body = ch.basic_get("acks", auto_ack=True)
            if method is None:
                break
            got.append((int(body), method.redelivered))
        same([x[0] for x in got], list(range(10, 20)))
        same(got[0][1], True)


@test
def health_and_metrics(_t):
    with Node() as n:
        fill(n, "metrics")
        same(n.http("/healthz")[0], 200)
        same(n.http("/readyz")[0], 200)
        status, text = n.http("/metrics")
        same(status, 200)
        contains(text, "# TYPE ")
        for line in text.splitlines():
            if line and not line.startswith("#"):
                float(line.rsplit(" ", 1)[1])


@test
def the_wrong_protocol_is_answered_or_closed(_t):
    greetings = {
        "amqp": b"AMQP\x00\x00\x09\x01",
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "resp": b"*1\r\n$4\r\nPING\r\n",
        "kafka": b"\x00\x00\x00\x0e\x00\x12\x00\x00\x00\x00\x00\x01\x00\x04test",
        "tls": b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(240),
    }
    with Node() as n:
        for port in ("resp", "kafka", "amqp"):
            for name, hello in greetings.items():
                if name == port:
                    continue
                with socket.create_connection(("127.0.0.1", n.node.ports[port]), timeout=20) as s:
                    s.sendall(hello)
                    if name == "amqp" or name == "kafka":
                        s.sendall(b"\r\n\r\n" + bytes(64))
                    try:
                        s.recv(4096)  # an answer in the port's own words, or the end
                    except ConnectionResetError:
                        pass
                    except (socket.timeout, TimeoutError) as exc:
                        raise AssertionError("%s on the %s port is neither answered nor closed" % (name, port)) from exc
        same(n.redis().ping(), True)
        fill(n, unique("after"))


@test
def idle_connections_of_all_three(_t):
    with Node() as n:
        held = []
        for port in ("resp", "kafka", "amqp"):
            for _ in range(200):
                held.append(socket.create_connection(("127.0.0.1", n.node.ports[port]), timeout=10))
        fill(n, "beside-idle")
        for s in held:
            s.close()
        until("they are gone", lambda: n.redis().info("clients")["connected_clients"] < 50)


if __name__ == "__main__":
    main()
