"""pika, unchanged, against the server: exchanges, queues, publishing, consuming, acknowledging, confirms."""
import threading
import time

import pika
from pika import exceptions

from compat import contains, main, raises, same, test, unique, until


def connect(t, vhost="/", user="guest", password="guest", **kw):
    kw.setdefault("heartbeat", 0)
    kw.setdefault("blocked_connection_timeout", 20)
    return pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port, vhost, pika.PlainCredentials(user, password), **kw))


class Opened:
    """A connection with one channel, closed at the end of the block whatever happened."""

    def __init__(self, t, **kw):
        self.connection = connect(t, **kw)

    def __enter__(self):
        return self.connection.channel()

    def __exit__(self, *_):
        if self.connection.is_open:
            self.connection.close()


def queue_of(ch, durable=False, **kw):
    """A queue of its own for a test."""
    kw.setdefault("exclusive", not durable)
    return ch.queue_declare(unique("q"), durable=durable, **kw).method.queue


def get(ch, queue, auto_ack=True):
    """The next message's body, or None: (body alone when it is acknowledged already)."""
    method, _properties, body = ch.basic_get(queue, auto_ack=auto_ack)
    if method is None:
        return None
    return body if auto_ack else (method, body)


def drain(ch, queue):
    out = []
    while True:
        body = get(ch, queue)
        if body is None:
            return out
        out.append(body)


def counts(ch, queue):
    m = ch.queue_declare(queue, passive=True).method
    return m.message_count, m.consumer_count


# ---- connections ------------------------------------------------------------

@test
def connects_and_tells_what_it_can(t):
    c = connect(t)
    properties = c._impl.server_properties
    capabilities = properties["capabilities"]
    for name in ("publisher_confirms", "basic.nack", "consumer_cancel_notify", "authentication_failure_close", "per_consumer_qos"):
        same(capabilities[name], True, name)
    assert properties["product"] and properties["version"]
    c.close()


@test
def many_channels(t):
    c = connect(t)
    channels = [c.channel() for _ in range(100)]
    for i, ch in enumerate(channels):
        q = queue_of(ch)
        ch.basic_publish("", q, b"%d" % i)
        same(get(ch, q), b"%d" % i)
    for ch in channels[::2]:
        ch.close()
    again = c.channel()
    same(again.is_open, True)
    c.close()


@test
def unknown_vhost_is_refused(t):
    exc = raises((exceptions.ConnectionClosedByBroker, exceptions.ProbableAccessDeniedError), None, connect, t, vhost="no-such-vhost")
    contains(repr(exc), "(530) 'NOT_ALLOWED - vhost no-such-vhost not found'")


@test
def wrong_password_is_refused(t):
    for user, password in (("guest", "wrong"), ("nobody", "guest"), ("", "")):
        exc = raises(exceptions.AMQPConnectionError, None, connect, t, user=user, password=password)
        contains(repr(exc), "(403) 'ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the "
                            "broker logfile.'")


@test
def heartbeats_keep_an_idle_connection(t):
    c = connect(t, heartbeat=2)
    ch = c.channel()
    q = queue_of(ch)
    c.sleep(6)
    ch.basic_publish("", q, b"still here")
    same(get(ch, q), b"still here")
    c.close()


@test
def a_silent_client_is_dropped(t):
    """Two missed heartbeats: the server closes, and the client's exclusive queue goes."""
    c = connect(t, heartbeat=1)
    ch = c.channel()
    q = queue_of(ch)
    with Opened(t) as other:
        exc = raises(exceptions.ChannelClosedByBroker, None, other.queue_declare, q, passive=True)
        same(exc.reply_code, 405)
    time.sleep(6)  # pika answers heartbeats only while it is called

    def gone():
        with Opened(t) as other:
            try:
                other.queue_declare(q, passive=True)
            except exceptions.ChannelClosedByBroker as closed:
                return closed.reply_code == 404
        return False

    until("the exclusive queue is gone", gone, 15)


# ---- queues -----------------------------------------------------------------

@test
def declare_publish_get(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        same(get(ch, q), None)
        for i in range(5):
            ch.basic_publish("", q, b"m%d" % i)
        until("five messages", lambda: counts(ch, q) == (5, 0))
        method, properties, body = ch.basic_get(q, auto_ack=True)
        same((body, method.exchange, method.routing_key, method.redelivered, method.message_count),
             (b"m0", "", q, False, 4))
        same(drain(ch, q), [b"m1", b"m2", b"m3", b"m4"])
        same(properties.delivery_mode, None)


@test
def server_named_queue(t):
    with Opened(t) as ch:
        a = ch.queue_declare("", exclusive=True).method.queue
        b = ch.queue_declare("", exclusive=True).method.queue
        assert a.startswith("amq.gen-") and a != b, (a, b)
        ch.basic_publish("", b, b"x")
        # The empty name is the queue declared last on this channel.
        same(get(ch, ""), b"x")


@test
def properties_and_headers_come_back(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        headers = {"text": "värde", "int": 5, "big": 1 << 40, "negative": -7, "bool": True, "none": None, "list": [1, "two", [3]],
                   "table": {"deep": {"er": "x"}}, "bytes": b"\xff\x00".decode("latin1")}
        sent = pika.BasicProperties(content_type="text/plain", content_encoding="utf-8", headers=headers, delivery_mode=2, priority=7,
                                    correlation_id="corr", reply_to="reply", expiration="60000", message_id="id-1",
                                    timestamp=1700000000, type="kind", user_id="guest", app_id="app", cluster_id="cl")
        ch.basic_publish("", q, b"body", sent)
        _method, got, body = ch.basic_get(q, auto_ack=True)
        same(body, b"body")
        for name in ("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
                     "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"):
            same(getattr(got, name), getattr(sent, name), name)


@test
def bodies_of_many_sizes(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for size in (0, 1, 100, 4095, 4096, 16384, 131064, 131065, 200000, 3 << 20):
            body = bytes(i % 251 for i in range(min(size, 5000)))
            body = (body * (size // max(len(body), 1) + 1))[:size]
            ch.basic_publish("", q, body)
            same(get(ch, q) == body, True, "body of %d bytes" % size)


@test
def small_frames(t):
    with Opened(t, frame_max=4096 if t.real else 8192) as ch:
        q = queue_of(ch)
        body = bytes(range(256)) * 400
        ch.basic_publish("", q, body)
        same(get(ch, q) == body, True)


@test
def purge_and_delete(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for _ in range(10):
            ch.basic_publish("", q, b"x")
        until("ten messages", lambda: counts(ch, q)[0] == 10)
        ch.basic_get(q)  # unacknowledged: purge leaves it
        same(ch.queue_purge(q).method.message_count, 9)
        same(counts(ch, q), (0, 0))
        ch.basic_publish("", q, b"y")
        until("one message", lambda: counts(ch, q)[0] == 1)
        same(ch.queue_delete(q).method.message_count, 1)
        same(ch.queue_delete(q).method.message_count, 0)
        q = queue_of(ch)
        ch.basic_publish("", q, b"x")
        until("one message", lambda: counts(ch, q)[0] == 1)
        same(ch.queue_purge(q).method.message_count, 1)
        same(ch.queue_delete(q, if_unused=True, if_empty=True).method.message_count, 0)


@test
def redeclare_is_harmless(t):
    with Opened(t) as ch:
        q = queue_of(ch, durable=True)
        ch.basic_publish("", q, b"kept")
        until("one message", lambda: counts(ch, q)[0] == 1)
        same(ch.queue_declare(q, durable=True).method.message_count, 1)
        ch.queue_delete(q)


@test
def exclusive_queue_goes_with_its_connection(t):
    with Opened(t) as ch:
        q = queue_of(ch)
    with Opened(t) as ch:
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.queue_declare, q, passive=True)
        same(exc.reply_code, 404)


@test
def auto_delete_queue_goes_with_its_last_consumer(t):
    with Opened(t) as ch:
        q = ch.queue_declare(unique("q"), auto_delete=True).method.queue
        a = ch.basic_consume(q, lambda *_: None)
        b = ch.basic_consume(q, lambda *_: None)
        ch.basic_cancel(a)
        same(counts(ch, q), (0, 1))
        ch.basic_cancel(b)
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.queue_declare, q, passive=True)
        same(exc.reply_code, 404)


# ---- exchanges --------------------------------------------------------------

def publish_keys(ch, exchange, keys):
    for k in keys:
        ch.basic_publish(exchange, k, k.encode())


@test
def direct_exchange(t):
    with Opened(t) as ch:
        x, a, b = unique("x"), queue_of(ch), queue_of(ch)
        ch.exchange_declare(x, "direct")
        ch.queue_bind(a, x, "red")
        ch.queue_bind(a, x, "green")
        ch.queue_bind(b, x, "green")
        publish_keys(ch, x, ["red", "green", "blue"])
        same((drain(ch, a), drain(ch, b)), ([b"red", b"green"], [b"green"]))
        ch.queue_unbind(a, x, "red")
        publish_keys(ch, x, ["red", "green"])
        same(drain(ch, a), [b"green"])
        ch.queue_unbind(a, x, "never bound")
        ch.exchange_delete(x)
        ch.exchange_delete(x)


@test
def fanout_exchange(t):
    with Opened(t) as ch:
        x, queues = unique("x"), [queue_of(ch) for _ in range(5)]
        ch.exchange_declare(x, "fanout")
        for q in queues:
            ch.queue_bind(q, x, "whatever")
            ch.queue_bind(q, x, "twice")  # two bindings, still one copy
        publish_keys(ch, x, ["1", "2"])
        for q in queues:
            same(drain(ch, q), [b"1", b"2"])
        ch.exchange_delete(x)


@test
def topic_exchange(t):
    cases = {
        "a.b.c": ["a.b.c"],
        "*.b.*": ["a.b.c", "x.b.z"],
        "a.#": ["a", "a.b", "a.b.c", "a."],
        "#.c": ["c", "a.b.c"],
        "a.*": ["a.b", "a."],
        "#": None,
        "*": ["a", "c", ""],
        "a.#.c": ["a.b.c"],
        "*.#": None,
        "#.*.#.b.#": ["a.b", "a.b.c", "x.b.z"],
    }
    keys = ["a.b.c", "x.b.z", "a", "a.b", "c", "a.", ""]
    with Opened(t) as ch:
        x = unique("x")
        ch.exchange_declare(x, "topic")
        queues = {}
        for pattern in cases:
            queues[pattern] = queue_of(ch)
            ch.queue_bind(queues[pattern], x, pattern)
        for k in keys:
            ch.basic_publish(x, k, k.encode())
        for pattern, want in cases.items():
            got = {b.decode() for b in drain(ch, queues[pattern])}
            if want is None:
                # the empty key has no word, so only a lone # or * decides; take what the two agree on
                same(got - {""}, set(keys) - {""}, pattern)
            else:
                same(got - {""}, set(want) - {""}, pattern)
        ch.exchange_delete(x)


@test
def headers_exchange(t):
    with Opened(t) as ch:
        x = unique("x")
        ch.exchange_declare(x, "headers")
        binds = {
            "all": {"x-match": "all", "a": 1, "b": "two"},
            "any": {"x-match": "any", "a": 1, "b": "two"},
            "default": {"a": 1},
            "empty": {},
            "presence": {"x-match": "all", "a": None},
        }
        queues = {name: queue_of(ch) for name in binds}
        for name, args in binds.items():
            ch.queue_bind(queues[name], x, "", args)
        sends = {
            "both": {"a": 1, "b": "two"},
            "only a": {"a": 1},
            "other a": {"a": 2},
            "b wrong": {"a": 1, "b": 2},
            "nothing": {},
        }
        for name, headers in sends.items():
            ch.basic_publish(x, "ignored", name.encode(), pika.BasicProperties(headers=headers))
        ch.basic_publish(x, "ignored", b"no table")
        want = {
            "all": ["both"],
            "any": ["both", "only a", "b wrong"],
            "default": ["both", "only a", "b wrong"],
            "empty": ["both", "only a", "other a", "b wrong", "nothing", "no table"],
            "presence": ["both", "only a", "other a", "b wrong"],
        }
        for name in binds:
            same([b.decode() for b in drain(ch, queues[name])], want[name], name)
        ch.exchange_delete(x)


@test
def predeclared_exchanges(t):
    with Opened(t) as ch:
        for name, kind in (("amq.direct", "direct"), ("amq.fanout", "fanout"), ("amq.topic", "topic"), ("amq.headers", "headers"),
                           ("amq.match", "headers")):
            ch.exchange_declare(name, passive=True)
            ch.exchange_declare(name, kind, durable=True)
        q = queue_of(ch)
        ch.queue_bind(q, "amq.topic", "compat.%s.*" % q)
        ch.basic_publish("amq.topic", "compat.%s.x" % q, b"topic")
        same(get(ch, q), b"topic")


@test
def auto_delete_exchange_goes_with_its_last_binding(t):
    with Opened(t) as ch:
        x, q = unique("x"), queue_of(ch)
        ch.exchange_declare(x, "direct", auto_delete=True)
        ch.queue_bind(q, x, "k")
        ch.queue_unbind(q, x, "k")
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.exchange_declare, x, passive=True)
        same(exc.reply_code, 404)


@test
def deleting_a_queue_removes_its_bindings(t):
    with Opened(t) as ch:
        x, q = unique("x"), queue_of(ch)
        ch.exchange_declare(x, "direct")
        ch.queue_bind(q, x, "k")
        ch.queue_delete(q)
        ch.confirm_delivery()
        raises(exceptions.UnroutableError, None, ch.basic_publish, x, "k", b"nobody", mandatory=True)
        ch.exchange_delete(x)


# ---- publishing -------------------------------------------------------------

@test
def confirms(t):
    with Opened(t) as ch:
        q = queue_of(ch, durable=True)
        ch.confirm_delivery()
        for i in range(200):
            ch.basic_publish("", q, b"%d" % i, pika.BasicProperties(delivery_mode=2))
        same(counts(ch, q), (200, 0))
        ch.basic_publish("", "no such queue", b"dropped, yet confirmed")
        same([int(b) for b in drain(ch, q)], list(range(200)))
        ch.queue_delete(q)


@test
def mandatory_returns_what_nobody_takes(t):
    with Opened(t) as ch:
        ch.confirm_delivery()
        exc = raises(exceptions.UnroutableError, None, ch.basic_publish, "", unique("no-queue"), b"back",
                     pika.BasicProperties(message_id="m1"), True)
        returned = exc.messages[0]
        same((returned.method.reply_code, returned.method.reply_text, returned.body, returned.properties.message_id),
             (312, "NO_ROUTE", b"back", "m1"))
        q = queue_of(ch)
        ch.basic_publish("", q, b"routed", mandatory=True)
        same(get(ch, q), b"routed")


@test
def mandatory_without_confirms(t):
    with Opened(t) as ch:
        back = []
        ch.add_on_return_callback(lambda _ch, method, _properties, body: back.append((method.reply_text, method.routing_key, body)))
        ch.basic_publish("amq.direct", "nobody.binds.this", b"x", mandatory=True)
        ch.basic_publish("amq.direct", "nobody.binds.this", b"y")
        ch.connection.process_data_events(0.5) if not back else None
        until("the return", lambda: back or ch.connection.process_data_events(0.1))
        same(back, [("NO_ROUTE", "nobody.binds.this", b"x")])


# ---- consuming --------------------------------------------------------------

def take(ch, queue, n, auto_ack=True, limit_s=30):
    """Consumes n messages: a list of (method, body)."""
    got = []
    for method, _properties, body in ch.consume(queue, auto_ack=auto_ack, inactivity_timeout=limit_s):
        if method is None:
            break
        got.append((method, body))
        if len(got) == n:
            break
    return got


@test
def consume_in_order(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for i in range(1000):
            ch.basic_publish("", q, b"%d" % i)
        got = take(ch, q, 1000)
        same([int(b) for _m, b in got], list(range(1000)))
        same([m.delivery_tag for m, _b in got], list(range(1, 1001)))
        ch.cancel()
        same(counts(ch, q), (0, 0))


@test
def consumers_share_a_queue(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        got = {"a": [], "b": []}
        ch.basic_qos(prefetch_count=1)
        ch.basic_consume(q, lambda c, m, _p, b: (got["a"].append(b), c.basic_ack(m.delivery_tag)), consumer_tag="a")
        ch.basic_consume(q, lambda c, m, _p, b: (got["b"].append(b), c.basic_ack(m.delivery_tag)), consumer_tag="b")
        for i in range(100):
            ch.basic_publish("", q, b"%d" % i)
        until("all consumed", lambda: len(got["a"]) + len(got["b"]) == 100 or ch.connection.process_data_events(0.1))
        same(sorted(map(int, got["a"] + got["b"])), list(range(100)))
        assert got["a"] and got["b"], {k: len(v) for k, v in got.items()}


@test
def cancel_stops_deliveries(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        got = []
        tag = ch.basic_consume(q, lambda _c, _m, _p, b: got.append(b), auto_ack=True)
        ch.basic_publish("", q, b"1")
        until("one", lambda: got or ch.connection.process_data_events(0.1))
        ch.basic_cancel(tag)
        ch.basic_publish("", q, b"2")
        ch.connection.process_data_events(0.3)
        same(got, [b"1"])
        same(get(ch, q), b"2")


@test
def acks_and_redelivery(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for i in range(6):
            ch.basic_publish("", q, b"%d" % i)
        held = [get(ch, q, auto_ack=False) for _ in range(6)]
        same([m.redelivered for m, _b in held], [False] * 6)
        ch.basic_ack(held[0][0].delivery_tag)
        ch.basic_ack(held[2][0].delivery_tag, multiple=True)       # 1 and 2
        ch.basic_nack(held[3][0].delivery_tag, requeue=True)       # comes back
        ch.basic_reject(held[4][0].delivery_tag, requeue=False)    # gone
        ch.basic_reject(held[5][0].delivery_tag, requeue=True)     # comes back
        again = [get(ch, q, auto_ack=False) for _ in range(2)]
        same([(b, m.redelivered) for m, b in again], [(b"3", True), (b"5", True)])
        same(get(ch, q), None)
        ch.basic_nack(0, multiple=True, requeue=False)             # all that is outstanding
        same(get(ch, q), None)
        same(counts(ch, q), (0, 0))


@test
def requeue_keeps_the_position(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for i in range(6):
            ch.basic_publish("", q, b"%d" % i)
        held = [get(ch, q, auto_ack=False) for _ in range(3)]
        ch.basic_nack(held[2][0].delivery_tag, requeue=True)
        ch.basic_nack(held[0][0].delivery_tag, requeue=True)
        ch.basic_nack(held[1][0].delivery_tag, requeue=True)
        same(drain(ch, q), [b"%d" % i for i in range(6)])


@test
def closing_a_channel_returns_what_it_held(t):
    c = connect(t)
    keep = c.channel()
    q = queue_of(keep)
    for i in range(3):
        keep.basic_publish("", q, b"%d" % i)
    ch = c.channel()
    same([get(ch, q, auto_ack=False)[1] for _ in range(2)], [b"0", b"1"])
    ch.close()
    got = []
    while True:
        m = get(keep, q, auto_ack=False)
        if m is None:
            break
        got.append((m[1], m[0].redelivered))
    same(got, [(b"0", True), (b"1", True), (b"2", False)])
    c.close()


@test
def a_lost_connection_returns_what_it_held(t):
    with Opened(t) as ch:
        q = queue_of(ch, durable=True)
        for i in range(10):
            ch.basic_publish("", q, b"%d" % i)
        lost = connect(t)
        other = lost.channel()
        other.basic_qos(prefetch_count=4)
        other.basic_consume(q, lambda *_: None)
        until("four are held", lambda: counts(ch, q)[0] == 6)
        lost._impl._transport._sock.close() if hasattr(lost._impl._transport, "_sock") else lost.close()
        until("they are back", lambda: counts(ch, q) == (10, 0))
        first = get(ch, q, auto_ack=False)
        same((first[1], first[0].redelivered), (b"0", True))
        ch.basic_ack(first[0].delivery_tag)
        same(drain(ch, q), [b"%d" % i for i in range(1, 10)])
        ch.queue_delete(q)


@test
def prefetch_limits_a_consumer(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for i in range(20):
            ch.basic_publish("", q, b"%d" % i)
        got = []
        ch.basic_qos(prefetch_count=3)
        ch.basic_consume(q, lambda _c, m, _p, _b: got.append(m.delivery_tag))
        until("three", lambda: len(got) >= 3 or ch.connection.process_data_events(0.1))
        ch.connection.process_data_events(0.3)
        same(len(got), 3)
        ch.basic_ack(got[0])
        until("a fourth", lambda: len(got) >= 4 or ch.connection.process_data_events(0.1))
        ch.basic_ack(got[3], multiple=True)
        until("seven", lambda: len(got) >= 7 or ch.connection.process_data_events(0.1))
        ch.connection.process_data_events(0.2)
        same(len(got), 7)
        ch.basic_nack(got[-1], multiple=True, requeue=True)
        until("requeued ones come again", lambda: len(got) >= 10 or ch.connection.process_data_events(0.1))


@test
def prefetch_over_a_channel(t):
    """qos with global=true counts all consumers of the channel together."""
    with Opened(t) as ch:
        q, r = queue_of(ch), queue_of(ch)
        for i in range(10):
            ch.basic_publish("", q, b"%d" % i)
            ch.basic_publish("", r, b"%d" % i)
        got = []
        ch.basic_qos(prefetch_count=5, global_qos=True)
        ch.basic_consume(q, lambda _c, m, _p, _b: got.append(m.delivery_tag))
        ch.basic_consume(r, lambda _c, m, _p, _b: got.append(m.delivery_tag))
        until("five", lambda: len(got) >= 5 or ch.connection.process_data_events(0.1))
        ch.connection.process_data_events(0.3)
        same(len(got), 5)
        ch.basic_ack(0, multiple=True)
        until("ten", lambda: len(got) >= 10 or ch.connection.process_data_events(0.1))


@test
def consumer_is_told_when_its_queue_is_deleted(t):
    with Opened(t) as ch:
        q = queue_of(ch, durable=True)
        cancelled = []
        ch.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
        tag = ch.basic_consume(q, lambda *_: None)
        with Opened(t) as other:
            other.queue_delete(q)
        until("basic.cancel", lambda: cancelled or ch.connection.process_data_events(0.1))
        same(cancelled, [tag])
        same(ch.is_open, True)


@test
def publisher_and_consumer_on_two_connections(t):
    n = 3000
    with Opened(t) as ch:
        q = queue_of(ch, durable=True)
        got = []

        def consumer():
            with Opened(t) as mine:
                mine.basic_qos(prefetch_count=50)
                for method, _properties, body in mine.consume(q, inactivity_timeout=10):
                    if method is None:
                        return
                    got.append(int(body))
                    mine.basic_ack(method.delivery_tag)
                    if len(got) == n:
                        return

        th = threading.Thread(target=consumer)
        th.start()
        for i in range(n):
            ch.basic_publish("", q, b"%d" % i, pika.BasicProperties(delivery_mode=2))
        th.join()
        same(got == list(range(n)), True)
        until("nothing is left", lambda: counts(ch, q) == (0, 0))
        ch.queue_delete(q)


@test
def many_connections(t):
    connections = [connect(t) for _ in range(60)]
    with Opened(t) as ch:
        x = unique("x")
        ch.exchange_declare(x, "fanout")
        channels = []
        for c in connections:
            mine = c.channel()
            q = queue_of(mine)
            mine.queue_bind(q, x)
            channels.append((mine, q))
        ch.basic_publish(x, "", b"to all")
        for mine, q in channels:
            until("the copy", lambda m=mine, k=q: get(m, k) == b"to all")
        ch.exchange_delete(x)
    for c in connections:
        c.close()


if __name__ == "__main__":
    main()
