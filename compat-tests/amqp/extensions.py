"""RabbitMQ's extensions through pika, unchanged: transactions, direct reply-to, CC and BCC, alternate and bound exchanges, limits, expiry, priorities."""
import time

import pika
from pika import exceptions

from compat import contains, main, raises, same, test, unique, until
from pika_client import Opened, connect, counts, drain, get, queue_of

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def args(**kw):
    """x_max_length=5 becomes {"x-max-length": 5}."""
    return {k.replace("_", "-"): v for k, v in kw.items()}


def take(ch, queue, n, **kw):
    """Consumes n messages and cancels; what came, in order."""
    out = []
    for method, properties, body in ch.consume(queue, inactivity_timeout=30, **kw):
        assert method is not None, "only %r came" % out
        out.append((method, properties, body))
        if len(out) == n:
            break
    return out


@test
def transaction_commits_and_rolls_back(t):
    with Opened(t) as ch, Opened(t) as other:
        q = queue_of(ch, durable=True)
        ch.tx_select()
        ch.basic_publish("", q, b"a", PERSISTENT)
        same(get(other, q), None, "before the commit")
        ch.tx_rollback()
        ch.basic_publish("", q, b"b", PERSISTENT)
        ch.basic_publish("", q, b"c", PERSISTENT)
        ch.tx_commit()
        same(counts(other, q)[0], 2)
        method, body = get(ch, q, auto_ack=False)
        same(body, b"b")
        ch.basic_ack(method.delivery_tag)
        ch.tx_rollback()
        ch.basic_ack(method.delivery_tag)
        ch.tx_commit()
        same(drain(other, q), [b"c"])
        ch.queue_delete(q)


@test
def transaction_and_confirms_exclude_each_other(t):
    with Opened(t) as ch:
        ch.tx_select()
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.confirm_delivery)
        same((exc.reply_code, exc.reply_text), (406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"))
    with Opened(t) as ch:
        ch.confirm_delivery()
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.tx_select)
        same((exc.reply_code, exc.reply_text), (406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"))
    with Opened(t) as ch:
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.tx_commit)
        same((exc.reply_code, exc.reply_text), (406, "PRECONDITION_FAILED - channel is not transactional"))


@test
def direct_reply_to(t):
    with Opened(t) as asks, Opened(t) as answers:
        q = queue_of(answers)
        replies = []
        asks.basic_consume("amq.rabbitmq.reply-to", lambda c, m, p, b: replies.append((m.routing_key, p.correlation_id, b)), auto_ack=True)
        for i in range(3):
            asks.basic_publish("", q, b"%d" % i, pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=str(i)))
        for method, properties, body in take(answers, q, 3, auto_ack=True):
            contains(properties.reply_to, "amq.rabbitmq.reply-to.")
            answers.queue_declare(properties.reply_to, passive=True)
            answers.basic_publish("", properties.reply_to, b"re " + body, pika.BasicProperties(correlation_id=properties.correlation_id))
        until("the replies", lambda: asks.connection.process_data_events(0.05) or len(replies) == 3)
        same([(c, b) for _k, c, b in replies], [("0", b"re 0"), ("1", b"re 1"), ("2", b"re 2")])


@test
def direct_reply_to_refusals(t):
    with Opened(t) as ch:
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.basic_consume, "amq.rabbitmq.reply-to", print)
        same((exc.reply_code, exc.reply_text), (406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"))
    with Opened(t) as ch:
        ch.basic_publish("", "x", b"", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.basic_qos, prefetch_count=1)
        same((exc.reply_code, exc.reply_text), (406, "PRECONDITION_FAILED - fast reply consumer does not exist"))


@test
def cc_and_bcc_are_further_keys(t):
    with Opened(t) as ch:
        qs = [queue_of(ch) for _ in range(4)]
        ch.basic_publish("", qs[0], b"x", pika.BasicProperties(headers={"CC": [qs[1], qs[1]], "BCC": [qs[2]], "other": 1}))
        for q in qs[:3]:
            until("a copy", lambda k=q: counts(ch, k)[0] == 1)
            _method, properties, body = ch.basic_get(q, auto_ack=True)
            same(body, b"x")
            same(properties.headers, {"CC": [qs[1], qs[1]], "other": 1}, "BCC is removed")
        same(get(ch, qs[3]), None)


@test
def alternate_exchange_takes_the_rest(t):
    with Opened(t) as ch:
        main_x, rest_x = unique("x"), unique("rest")
        ch.exchange_declare(rest_x, "fanout")
        ch.exchange_declare(main_x, "direct", arguments={"alternate-exchange": rest_x})
        q, rest = queue_of(ch), queue_of(ch)
        ch.queue_bind(q, main_x, "known")
        ch.queue_bind(rest, rest_x)
        ch.confirm_delivery()
        ch.basic_publish(main_x, "known", b"1", mandatory=True)
        ch.basic_publish(main_x, "unknown", b"2", mandatory=True)
        same((drain(ch, q), drain(ch, rest)), ([b"1"], [b"2"]))
        ch.exchange_delete(main_x)
        ch.exchange_delete(rest_x)


@test
def exchanges_bound_to_each_other_may_loop(t):
    with Opened(t) as ch:
        a, b = unique("a"), unique("b")
        ch.exchange_declare(a, "fanout")
        ch.exchange_declare(b, "topic")
        ch.exchange_bind(b, a)
        ch.exchange_bind(a, b, "#")
        q = queue_of(ch)
        ch.queue_bind(q, b, "k.*")
        ch.queue_bind(q, a)
        ch.confirm_delivery()
        ch.basic_publish(a, "k.1", b"once")
        same(drain(ch, q), [b"once"])
        ch.exchange_unbind(b, a)
        ch.queue_unbind(q, a)
        ch.basic_publish(a, "k.2", b"nowhere")
        same(drain(ch, q), [])
        ch.exchange_delete(a)
        ch.exchange_delete(b)


@test
def maximal_length_drops_the_oldest(t):
    with Opened(t) as ch:
        q = queue_of(ch, arguments=args(x_max_length=3))
        ch.confirm_delivery()
        for i in range(6):
            ch.basic_publish("", q, b"%d" % i)
        same(drain(ch, q), [b"3", b"4", b"5"])
        q = queue_of(ch, arguments=args(x_max_length_bytes=10))
        for i in range(6):
            ch.basic_publish("", q, b"%d..." % i)
        same(drain(ch, q), [b"4...", b"5..."])


@test
def a_full_queue_may_refuse(t):
    with Opened(t) as ch:
        q = queue_of(ch, arguments=args(x_max_length=2, x_overflow="reject-publish"))
        ch.confirm_delivery()
        ch.basic_publish("", q, b"0")
        ch.basic_publish("", q, b"1")
        raises(exceptions.NackError, None, ch.basic_publish, "", q, b"2")
        same(drain(ch, q), [b"0", b"1"])
        ch.basic_publish("", q, b"3")
        same(drain(ch, q), [b"3"])


@test
def messages_expire(t):
    with Opened(t) as ch:
        q = queue_of(ch, arguments=args(x_message_ttl=300))
        ch.confirm_delivery()
        ch.basic_publish("", q, b"by the queue", mandatory=True)  # confirmed and routed: it was there
        ch.basic_publish("", q, b"by itself", pika.BasicProperties(expiration="50"), mandatory=True)
        until("both are gone", lambda: counts(ch, q)[0] == 0)
        same(get(ch, q), None)
        plain = queue_of(ch)
        ch.basic_publish("", plain, b"short", pika.BasicProperties(expiration="50"))
        ch.basic_publish("", plain, b"long", pika.BasicProperties(expiration="60000"))
        until("the short one is gone", lambda: counts(ch, plain)[0] == 1)
        same(drain(ch, plain), [b"long"])


@test
def unused_queues_expire(t):
    with Opened(t) as ch:
        q = unique("q")
        ch.queue_declare(q, arguments=args(x_expires=300))

        def gone():
            with Opened(t) as other:
                try:
                    other.exchange_declare("amq.direct", passive=True)
                    other.queue_bind(q, "amq.direct", "never-%s" % time.monotonic())
                except exceptions.ChannelClosedByBroker as exc:
                    return exc.reply_code == 404
            time.sleep(0.1)
            return False

        until("the queue is gone", gone)


@test
def priorities_go_first(t):
    with Opened(t) as ch:
        q = queue_of(ch, arguments=args(x_max_priority=5))
        ch.confirm_delivery()
        for i, priority in enumerate((0, 5, 2, None, 9, 2)):
            ch.basic_publish("", q, b"%d" % i, pika.BasicProperties(priority=priority))
        same(drain(ch, q), [b"1", b"4", b"2", b"5", b"0", b"3"])


@test
def consumers_with_priority_are_served_first(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        got = {"low": [], "high": []}
        ch.basic_qos(prefetch_count=2)
        ch.basic_consume(q, lambda c, m, p, b: got["low"].append(b))
        ch.basic_consume(q, lambda c, m, p, b: got["high"].append(b), arguments=args(x_priority=10))
        for i in range(3):
            ch.basic_publish("", q, b"%d" % i)
        until("all three", lambda: ch.connection.process_data_events(0.05) or sum(map(len, got.values())) == 3)
        same(got, {"high": [b"0", b"1"], "low": [b"2"]})


@test
def a_single_active_consumer_is_followed_by_the_next(t):
    with Opened(t) as ch, Opened(t) as second:
        q = unique("q")
        ch.queue_declare(q, durable=True, arguments=args(x_single_active_consumer=True))
        first, next_ = [], []
        tag = ch.basic_consume(q, lambda c, m, p, b: first.append(b), auto_ack=True)
        second.basic_consume(q, lambda c, m, p, b: next_.append(b), auto_ack=True)
        for i in range(4):
            ch.basic_publish("", q, b"%d" % i)
        until("all", lambda: ch.connection.process_data_events(0.05) or len(first) == 4)
        ch.basic_cancel(tag)
        ch.basic_publish("", q, b"4")
        until("the next", lambda: second.connection.process_data_events(0.05) or next_ == [b"4"])
        if t.real:  # 3.10 still allows it, 4 refuses
            same(get(ch, q), None)
            second.queue_delete(q)
            return
        exc = raises(exceptions.ChannelClosedByBroker, None, ch.basic_get, q)
        same(exc.reply_code, 405)
        contains(exc.reply_text, "RESOURCE_LOCKED - cannot obtain access to locked queue '%s' in vhost '/'. basic.get operations are not supported by" % q)
        second.queue_delete(q)


@test
def server_expires_nothing_it_must_keep(t):
    with Opened(t) as ch:
        q = queue_of(ch, durable=True)
        ch.basic_publish("", q, b"kept", pika.BasicProperties(delivery_mode=2, expiration="0"))
        until("it is gone at once", lambda: get(ch, q) is None)
        ch.basic_consume(q, lambda c, m, p, b: seen.append(b), auto_ack=True)
        seen = []
        ch.basic_publish("", q, b"now", pika.BasicProperties(expiration="0"))
        until("a waiting consumer gets it", lambda: ch.connection.process_data_events(0.05) or seen == [b"now"])
        ch.queue_delete(q)


@test
def recover_requeues_everything(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        ch.confirm_delivery()
        for i in range(3):
            ch.basic_publish("", q, b"%d" % i)
        for _ in range(3):
            get(ch, q, auto_ack=False)
        same(counts(ch, q)[0], 0)
        ch.basic_recover(requeue=True)
        got = [ch.basic_get(q, auto_ack=True) for _ in range(3)]
        same([(m.redelivered, b) for m, _p, b in got], [(True, b"0"), (True, b"1"), (True, b"2")])


@test
def recover_leaves_what_a_transaction_acknowledged(t):
    with Opened(t) as ch:
        q = queue_of(ch)
        for i in range(3):
            ch.basic_publish("", q, b"%d" % i)
        until("all are there", lambda: counts(ch, q)[0] == 3)
        ch.tx_select()
        held = [get(ch, q, auto_ack=False) for _ in range(3)]
        ch.basic_ack(held[1][0].delivery_tag)
        ch.basic_recover(requeue=True)
        ch.tx_commit()
        got = [ch.basic_get(q, auto_ack=True) for _ in range(3)]
        same([(m and m.redelivered, b) for m, _p, b in got], [(True, b"0"), (True, b"2"), (None, None)])


@test
def invalid_arguments_are_told(t):
    cases = (
        (args(x_message_ttl=-1), "invalid arg 'x-message-ttl' for queue '%s' in vhost '/': {value_negative,-1}"),
        (args(x_expires=0), "invalid arg 'x-expires' for queue '%s' in vhost '/': {value_zero,0}"),
        (args(x_max_length="five"), "invalid arg 'x-max-length' for queue '%s' in vhost '/': \"expected integer, got longstr\""),
        (args(x_max_priority=256), "invalid arg 'x-max-priority' for queue '%s' in vhost '/': {max_value_exceeded,256}"),
        (args(x_overflow="up"), "invalid arg 'x-overflow' for queue '%s' in vhost '/': invalid_overflow"),
    )
    for arguments, words in cases:
        with Opened(t) as ch:
            q = unique("q")
            exc = raises(exceptions.ChannelClosedByBroker, None, ch.queue_declare, q, arguments=arguments)
            same((exc.reply_code, exc.reply_text), (406, "PRECONDITION_FAILED - " + words % q))


@test
def invalid_messages_are_told(t):
    cases = (
        (dict(expiration="soon"), "invalid expiration 'soon': no_integer"),
        (dict(expiration="5s"), "invalid expiration '5s': {leftover_string,\"s\"}"),
        (dict(expiration="-1"), "invalid expiration '-1': {value_negative,-1}"),
        (dict(user_id="eve"), "user_id property set to 'eve' but authenticated user was 'guest'"),
    )
    for properties, words in cases:
        with Opened(t) as ch:
            ch.basic_publish("", "anywhere", b"", pika.BasicProperties(**properties))
            exc = raises(exceptions.ChannelClosedByBroker, None, ch.basic_qos, prefetch_count=1)
            same(exc.reply_code, 406)
            contains(exc.reply_text, words)


@test
def a_new_secret_is_accepted(t):
    connection = connect(t)
    connection.update_secret("another", "rotated")
    same(connection.is_open, True)
    connection.close()


if __name__ == "__main__":
    main()
