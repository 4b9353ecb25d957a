"""The exact exceptions of AMQP as RabbitMQ gives them: code, text, and whether a channel or the connection ends."""
import socket
import struct

import pika
from pika import exceptions

from compat import main, same, test, unique, until
from pika_client import Opened, connect, get, queue_of


def channel_error(t, code, text, func):
    """func(channel) must close that channel, not the connection, with exactly this code and text."""
    c = connect(t)
    ch = c.channel()
    try:
        func(ch)
        ch.basic_qos(prefetch_count=1)  # a synchronous method meets what came asynchronously
    except exceptions.ChannelClosedByBroker as exc:
        same((exc.reply_code, exc.reply_text), (code, text))
    else:
        raise AssertionError("no exception; expected %d %s" % (code, text))
    same(c.is_open, True)
    same(c.channel().is_open, True)
    c.close()


def connection_error(t, code, text, func):
    c = connect(t)
    ch = c.channel()
    try:
        func(ch)
        ch.basic_qos(prefetch_count=1)
    except exceptions.ConnectionClosedByBroker as exc:
        same((exc.reply_code, exc.reply_text), (code, text))
    else:
        raise AssertionError("no exception; expected %d %s" % (code, text))
    same(c.is_open, False)


@test
def not_found(t):
    q = unique("absent")
    text = "NOT_FOUND - no queue '%s' in vhost '/'" % q
    for func in (lambda ch: ch.queue_declare(q, passive=True), lambda ch: ch.basic_consume(q, lambda *_: None),
                 lambda ch: ch.basic_get(q), lambda ch: ch.queue_purge(q), lambda ch: ch.queue_bind(q, "amq.direct", "k")):
        channel_error(t, 404, text, func)
    text = "NOT_FOUND - no exchange '%s' in vhost '/'" % q
    for func in (lambda ch: ch.exchange_declare(q, passive=True), lambda ch: ch.queue_bind(queue_of(ch), q, "k"),
                 lambda ch: ch.basic_publish(q, "k", b"x")):
        channel_error(t, 404, text, func)


@test
def reserved_names(t):
    channel_error(t, 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
                  lambda ch: ch.queue_declare("amq.mine"))
    channel_error(t, 403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
                  lambda ch: ch.exchange_declare("amq.mine", "direct"))
    channel_error(t, 403, "ACCESS_REFUSED - operation not permitted on the default exchange",
                  lambda ch: ch.queue_bind(queue_of(ch), "", "k"))
    channel_error(t, 403, "ACCESS_REFUSED - operation not permitted on the default exchange", lambda ch: ch.exchange_delete(""))
    channel_error(t, 403, "ACCESS_REFUSED - operation not permitted on the default exchange",
                  lambda ch: ch.exchange_declare("", "direct"))
    channel_error(t, 403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
                  lambda ch: ch.exchange_delete("amq.direct"))


@test
def inequivalent_declarations(t):
    with Opened(t) as keep:
        q = keep.queue_declare(unique("q"), durable=True).method.queue
        x = unique("x")
        keep.exchange_declare(x, "direct")
        where = "queue '%s' in vhost '/'" % q
        channel_error(t, 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for %s: received 'false' but current is 'true'" % where,
                      lambda ch: ch.queue_declare(q))
        channel_error(t, 406, "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for %s: received 'true' but current is 'false'" % where,
                      lambda ch: ch.queue_declare(q, durable=True, auto_delete=True))
        where = "exchange '%s' in vhost '/'" % x
        channel_error(t, 406, "PRECONDITION_FAILED - inequivalent arg 'type' for %s: received 'fanout' but current is 'direct'" % where,
                      lambda ch: ch.exchange_declare(x, "fanout"))
        channel_error(t, 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for %s: received 'true' but current is 'false'" % where,
                      lambda ch: ch.exchange_declare(x, "direct", durable=True))
        keep.queue_delete(q)
        keep.exchange_delete(x)


@test
def locked_queue(t):
    with Opened(t) as keep:
        q = queue_of(keep)
        text = ("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%s' in vhost '/'. It could be originally declared on "
                "another connection or the exclusive property value does not match that of the original declaration." % q)
        for func in (lambda ch: ch.queue_declare(q), lambda ch: ch.basic_get(q), lambda ch: ch.queue_purge(q),
                     lambda ch: ch.queue_delete(q), lambda ch: ch.basic_consume(q, lambda *_: None),
                     lambda ch: ch.queue_bind(q, "amq.direct", "k")):
            channel_error(t, 405, text[:255] if len(text) <= 255 else text[:252] + "...", func)
        same(get(keep, q), None)


@test
def exclusive_consumer(t):
    with Opened(t) as keep:
        q = keep.queue_declare(unique("q"), durable=True).method.queue
        text = "ACCESS_REFUSED - queue '%s' in vhost '/' in exclusive use" % q
        tag = keep.basic_consume(q, lambda *_: None, exclusive=True)
        channel_error(t, 403, text, lambda ch: ch.basic_consume(q, lambda *_: None))
        keep.basic_cancel(tag)
        keep.basic_consume(q, lambda *_: None)
        channel_error(t, 403, text, lambda ch: ch.basic_consume(q, lambda *_: None, exclusive=True))
        keep.queue_delete(q)


@test
def conditional_deletes(t):
    with Opened(t) as keep:
        q = keep.queue_declare(unique("q"), durable=True).method.queue
        keep.confirm_delivery()
        keep.basic_publish("", q, b"x")
        channel_error(t, 406, "PRECONDITION_FAILED - queue '%s' in vhost '/' not empty" % q,
                      lambda ch: ch.queue_delete(q, if_empty=True))
        keep.basic_consume(q, lambda *_: None)
        channel_error(t, 406, "PRECONDITION_FAILED - queue '%s' in vhost '/' in use" % q,
                      lambda ch: ch.queue_delete(q, if_unused=True))
        x = unique("x")
        keep.exchange_declare(x, "direct")
        keep.queue_bind(q, x, "k")
        channel_error(t, 406, "PRECONDITION_FAILED - exchange '%s' in vhost '/' in use" % x,
                      lambda ch: ch.exchange_delete(x, if_unused=True))
        keep.exchange_delete(x)
        keep.queue_delete(q)


@test
def unknown_delivery_tags(t):
    text = "PRECONDITION_FAILED - unknown delivery tag 7"
    channel_error(t, 406, text, lambda ch: ch.basic_ack(7))
    channel_error(t, 406, text, lambda ch: ch.basic_nack(7))
    channel_error(t, 406, text, lambda ch: ch.basic_reject(7))

    def twice(ch):
        q = queue_of(ch)
        ch.basic_publish("", q, b"x")
        method, _body = get(ch, q, auto_ack=False)
        ch.basic_ack(method.delivery_tag)
        ch.basic_ack(method.delivery_tag)

    channel_error(t, 406, "PRECONDITION_FAILED - unknown delivery tag 1", twice)


@test
def unknown_exchange_type(t):
    if t.real:  # RabbitMQ before 4.0
        connection_error(t, 503, "COMMAND_INVALID - unknown exchange type 'no-such'",
                         lambda ch: ch.exchange_declare(unique("x"), "no-such"))
    else:
        channel_error(t, 406, "PRECONDITION_FAILED - unknown exchange type 'no-such'",
                      lambda ch: ch.exchange_declare(unique("x"), "no-such"))


@test
def connection_level_errors(t):
    def same_tag(ch):
        q = queue_of(ch)
        spec = pika.spec.Basic.Consume(queue=q, consumer_tag="twice")
        ch._impl._rpc(spec, lambda *_: None, [pika.spec.Basic.ConsumeOk])
        ch.connection.process_data_events(0.3)
        ch._impl._send_method(spec)

    connection_error(t, 530, "NOT_ALLOWED - attempt to reuse consumer tag 'twice'", same_tag)
    connection_error(t, 540, "NOT_IMPLEMENTED - prefetch_size!=0 (5)", lambda ch: ch.basic_qos(prefetch_size=5))
    connection_error(t, 540, "NOT_IMPLEMENTED - requeue=false", lambda ch: ch.basic_recover(requeue=False))
    connection_error(t, 540, "NOT_IMPLEMENTED - immediate=true",
                     lambda ch: ch._impl._send_method(pika.spec.Basic.Publish(routing_key="x", immediate=True), (
                         pika.BasicProperties(), b"x")))


@test
def internal_exchange(t):
    with Opened(t) as keep:
        x = unique("x")
        keep.exchange_declare(x, "direct", internal=True)
        channel_error(t, 403, "ACCESS_REFUSED - cannot publish to internal exchange '%s' in vhost '/'" % x,
                      lambda ch: ch.basic_publish(x, "k", b"x"))
        keep.exchange_delete(x)


@test
def empty_queue_name_without_a_declaration(t):
    channel_error(t, 404, "NOT_FOUND - no previously declared queue", lambda ch: ch.basic_get(""))


# ---- the wire ---------------------------------------------------------------

class Raw:
    """Frames by hand, for what no client would send."""

    def __init__(self, t):
        self.sock = socket.create_connection((t.host, t.port), timeout=10)

    def frame(self, kind, channel, payload):
        self.sock.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    def read(self, n):
        out = b""
        while len(out) < n:
            part = self.sock.recv(n - len(out))
            if not part:
                raise EOFError(out)
            out += part
        return out

    def next(self):
        kind, channel, size = struct.unpack(">BHI", self.read(7))
        payload = self.read(size)
        same(self.read(1), b"\xce")
        return kind, channel, payload

    def method(self, channel, want):
        """The next method frame must be `want` (class, method); returns its arguments."""
        while True:
            kind, got_channel, payload = self.next()
            if kind == 8:
                continue
            same((kind, got_channel, struct.unpack(">HH", payload[:4])), (1, channel, want))
            return payload[4:]

    def login(self, tune=(0, 0, 0)):
        self.sock.sendall(b"AMQP\x00\x00\x09\x01")
        self.method(0, (10, 10))
        response = b"\0guest\0guest"
        self.frame(1, 0, struct.pack(">HHI", 10, 11, 0) + b"\x05PLAIN" + struct.pack(">I", len(response)) + response + b"\x05en_US")
        channel_max, frame_max, heartbeat = struct.unpack(">HIH", self.method(0, (10, 30)))
        self.tuned = channel_max, frame_max, heartbeat
        self.frame(1, 0, struct.pack(">HHHIH", 10, 31, tune[0] or channel_max, tune[1] or frame_max, tune[2]))
        self.frame(1, 0, struct.pack(">HH", 10, 40) + b"\x01/\x00\x00")
        self.method(0, (10, 41))

    def open_channel(self, n=1):
        self.frame(1, n, struct.pack(">HH", 20, 10) + b"\x00")
        self.method(n, (20, 11))

    def closed_with(self):
        """The server's connection.close: (code, text)."""
        args = self.method(0, (10, 50))
        code, size = struct.unpack(">HB", args[:3])
        return code, args[3:3 + size].decode()

    def ends(self):
        try:
            while self.sock.recv(4096):
                pass
            return True
        except ConnectionResetError:
            return True


@test
def greeting_of_another_version(t):
    for hello in (b"AMQP\x00\x01\x00\x00", b"AMQP\x09\x09\x09\x09", b"HTTP\x00\x00\x09\x01"):
        r = Raw(t)
        r.sock.sendall(hello)
        same(r.read(8)[:4], b"AMQP")
        same(r.ends(), True)
    r = Raw(t)
    r.sock.sendall(b"AMQP\x01\x01\x00\x09")  # 0-9 is taken for 0-9-1
    r.method(0, (10, 10))


@test
def tuning(t):
    r = Raw(t)
    r.login()
    same(r.tuned[:2], (2047, 131072))
    same(r.tuned[2], 60)


@test
def bad_frames_end_the_connection(t):
    r = Raw(t)
    r.login()
    r.sock.sendall(struct.pack(">BHI", 1, 1, 5) + b"\0\x14\0\x0a\0" + b"X")  # wrong end byte
    same(r.closed_with()[0], 501)
    r = Raw(t)
    r.login()
    r.sock.sendall(struct.pack(">BHI", 1, 1, 0x7fffffff))  # far beyond frame_max
    same(r.closed_with()[0], 501)
    r = Raw(t)
    r.login()
    r.open_channel()
    r.frame(1, 1, struct.pack(">HH", 60, 10) + b"\0\0")  # basic.qos cut short
    same(r.closed_with()[0], 501)


@test
def channel_states(t):
    r = Raw(t)
    r.login()
    r.frame(1, 5, struct.pack(">HHIHB", 60, 10, 0, 1, 0))  # basic.qos on a channel never opened
    same(r.closed_with(), (504, "CHANNEL_ERROR - expected 'channel.open'"))
    r = Raw(t)
    r.login()
    r.open_channel()
    r.frame(1, 1, struct.pack(">HH", 20, 10) + b"\x00")
    same(r.closed_with(), (504, "CHANNEL_ERROR - second 'channel.open' seen"))


@test
def content_without_a_method(t):
    r = Raw(t)
    r.login()
    r.open_channel()
    r.frame(3, 1, b"body")
    same(r.closed_with()[0], 505)
    r = Raw(t)
    r.login()
    r.open_channel()
    r.frame(1, 1, struct.pack(">HHH", 60, 40, 0) + b"\x00\x01q\x00")  # publish, then another method instead of its header
    r.frame(1, 1, struct.pack(">HHIHB", 60, 10, 0, 1, 0))
    same(r.closed_with(), (505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"))


@test
def unknown_method(t):
    r = Raw(t)
    r.login()
    r.open_channel()
    r.frame(1, 1, struct.pack(">HH", 60, 999))
    try:
        code = r.closed_with()[0]
        assert code in (501, 503, 540), code
    except ConnectionResetError:
        pass  # what RabbitMQ does: its reader crashes
    with Opened(t) as ch:
        same(ch.is_open, True)


@test
def nowait_methods_have_no_answer(t):
    with Opened(t) as ch:
        q = unique("q")
        impl = ch._impl
        impl._send_method(pika.spec.Queue.Declare(queue=q, exclusive=True, nowait=True))
        impl._send_method(pika.spec.Queue.Bind(queue=q, exchange="amq.direct", routing_key=q, nowait=True))
        ch.basic_publish("amq.direct", q, b"x")
        until("the message", lambda: get(ch, q) == b"x")


if __name__ == "__main__":
    main()
