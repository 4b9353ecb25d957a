"""AMQP in a cluster of three real nodes: a client reaches any node, the queue is led by another; publishes, deliveries, acknowledgements and questions go over the bus, and on through a failover."""
import os
import select
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "fault"))
from node import PATIENCE, eventually, run_tests  # noqa: E402
from rig import Cluster, partition_of_queue  # noqa: E402
from wire import Amqp, AmqpClosed, longstr, shortstr  # noqa: E402

def healthy(cluster):
    return all(n.ctl("cluster", "health").get("healthy") for n in cluster.living())


def formed():
    cluster = Cluster(3, loopback=True)
    cluster.start()
    eventually(lambda: healthy(cluster), 30)
    cluster.add_user()
    return cluster


def node_id(cluster, node):
    return next(x["node"] for x in cluster.living()[0].ctl("cluster", "nodes") if x["name"] == node.name)


def queue_led_by(cluster, node, prefix="q"):
    led = {x["partition"] for x in node.ctl("cluster", "partitions") if x["leader"] == node_id(cluster, node)}
    return next(q for q in ("%s%d" % (prefix, i) for i in range(10000)) if partition_of_queue(q) in led)


def amqp(node):
    return Amqp(node.ports["amqp"], host=node.host, timeout=20 * PATIENCE, user="rig", password="rig")


class Notified(Amqp):
    """A client that said it understands connection.blocked, and keeps what the server says of itself."""

    def method(self, channel, klass, method, args=b""):
        if (klass, method) == (10, 11):
            table = shortstr("connection.blocked") + b"t\1"
            args = longstr(shortstr("capabilities") + b"F" + longstr(table)) + args[4:]
        super().method(channel, klass, method, args)

    def expect(self, klass, method):
        args = super().expect(klass, method)
        if (klass, method) == (10, 10):
            self.server_properties = args
        return args


def notified(node):
    return Notified(node.ports["amqp"], host=node.host, timeout=20 * PATIENCE, user="rig", password="rig")


def roles(cluster):
    """A queue, its leader, and the two others."""
    leader = cluster.nodes[1]
    others = [n for n in cluster.living() if n is not leader]
    return queue_led_by(cluster, leader), leader, others


def confirmed_to(c, last):
    """Reads confirms until every publish up to `last` was answered; returns those that were refused since the last call."""
    refused = []
    done = getattr(c, "answered", 0)
    while done < last:
        while not c.confirms:
            c.step()
        ok, tag, multiple = c.confirms.pop(0)
        if not ok:
            refused += list(range(done + 1, tag + 1)) if multiple else [tag]
        done = max(done, tag)
    c.answered = done
    return refused


def publish_bytes(queue, body, frame=131000):
    """One persistent message in frames of at most so much."""
    parts = [body[i:i + frame] for i in range(0, len(body), frame)]
    f = Amqp.frame
    return (f(None, 1, 1, struct.pack(">HHH", 60, 40, 0) + shortstr("") + shortstr(queue) + b"\0")
            + f(None, 2, 1, struct.pack(">HHQHB", 60, 0, len(body), 0x1000, 2)) + b"".join(f(None, 3, 1, x) for x in parts))


def idle(c, seconds):
    """True when nothing comes."""
    return not c.buffer and not c.deliveries and not select.select([c.sock], [], [], seconds)[0]


# ---- one node answers for another ------------------------------------------------------------------------------------------------
def declared_on_one_published_through_another_consumed_through_the_third():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        assert amqp(a).declare(q) == (q, 0, 0)
        assert amqp(b).declare(q, passive=True) == (q, 0, 0)
        p, c = amqp(a), amqp(b)
        p.confirm_select()
        bodies = [b"%d" % i * (1 + i % 50) for i in range(500)]
        p.send(b"".join(p.publish_bytes(q, body) for body in bodies))
        assert confirmed_to(p, len(bodies)) == []
        assert amqp(leader).declare(q, passive=True) == (q, 500, 0)
        c.qos(50)
        c.consume(q)
        for i, body in enumerate(bodies):
            tag, redelivered, got = c.delivery()
            assert (tag, redelivered, got) == (i + 1, False, body), (i, tag, redelivered, got)
            if i % 10 == 9:
                c.ack(tag, multiple=True)
        c.sync()
        assert amqp(a).declare(q, passive=True) == (q, 0, 1)
        assert idle(c, 0.3)


def gets_purges_and_large_messages_through_another_node():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        c, d = amqp(a), amqp(b)
        c.declare(q)
        c.confirm_select()
        large = os.urandom(3 << 20)
        c.send(publish_bytes(q, large))
        for i in range(20):
            c.publish(q, b"%d" % i)
        assert confirmed_to(c, 21) == []
        tag, redelivered, left, body = d.get(q)
        assert body == large and not redelivered and left == 20
        d.nack(tag, requeue=True)
        tag, redelivered, left, body = d.get(q)
        assert body == large and redelivered
        d.ack(tag)
        d.sync()
        assert d.get(q, no_ack=True)[3] == b"0"
        assert d.get(q)[3] == b"1"  # stays with this connection
        assert amqp(b).declare(q, passive=True)[1] == 18
        assert amqp(b).purge(q) == 18
        assert amqp(leader).get(q) is None
        d.close()
        eventually(lambda: amqp(leader).declare(q, passive=True)[1] == 1)  # given back with its connection
        tag, redelivered, _, body = amqp(a).get(q)
        assert body == b"1" and redelivered


def unsettled_deliveries_come_back_when_their_connection_or_channel_ends():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p, c = amqp(a), amqp(b)
        p.declare(q)
        p.confirm_select()
        for i in range(10):
            p.publish(q, b"%d" % i)
        confirmed_to(p, 10)
        c.qos(10)
        c.consume(q)
        first = [c.delivery()[2] for _ in range(10)]
        assert first == [b"%d" % i for i in range(10)]
        c.ack(3)
        c.sync()
        c.close()
        d = amqp(a)
        d.qos(20)
        d.consume(q)
        back = [d.delivery() for _ in range(9)]
        assert [x[2] for x in back] == [b"%d" % i for i in range(10) if i != 2] and all(x[1] for x in back)


def exclusive_queues_stay_with_their_connection_and_replies_find_them():
    with formed() as cluster:
        for where in cluster.living():
            asker, server = amqp(where), amqp(next(n for n in cluster.living() if n is not where))
            reply_to = asker.declare("", durable=False, exclusive=True)[0]
            asker.consume(reply_to, no_ack=True)
            server.confirm_select()
            for i in range(5):
                server.publish(reply_to, b"answer %d" % i, persistent=False)
            assert confirmed_to(server, 5) == []
            assert [asker.delivery()[2] for _ in range(5)] == [b"answer %d" % i for i in range(5)]
            try:
                server.consume(reply_to)
                raise AssertionError("another connection's exclusive queue was consumed")
            except AmqpClosed as e:
                assert e.code == 405


def a_deleted_queue_ends_its_consumers_on_other_nodes():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        c, d = amqp(a), amqp(b)
        c.declare(q)
        d.consume(q)
        c.method(1, 50, 40, b"\0\0" + bytes([len(q)]) + q.encode() + b"\0")
        c.expect(50, 41)
        try:
            d.declare(q, passive=True)
            raise AssertionError("it is still there")
        except AmqpClosed as x:
            assert x.code == 404
        assert amqp(a).declare(q) == (q, 0, 0)  # another queue of that name


def server_properties_tell_where_queues_are_led():
    with formed() as cluster:
        told = notified(cluster.nodes[2]).server_properties
        for n in cluster.nodes.values():
            assert ("%s:%d" % (n.host, n.ports["amqp"])).encode() in told, (n.name, told)
        leaders = [x["leader"] for x in cluster.nodes[1].ctl("cluster", "partitions")]
        assert shortstr("leaders") + b"S" + longstr(" ".join(str(x) for x in leaders)) in told, (leaders, told)


# ---- failover ----------------------------------------------------------------------------------------------------------------------
def the_queues_leader_is_killed_and_nothing_confirmed_is_lost():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p, c = amqp(a), amqp(b)
        p.declare(q)
        p.confirm_select()
        c.qos(20)
        c.consume(q)
        sent, got, final = 0, {}, set()
        killed = False
        deadline = time.monotonic() + 40 * PATIENCE
        while (sent < 400 or len(got) < 400) and time.monotonic() < deadline:
            if sent < 400:
                for _ in range(10):
                    p.publish(q, b"m%d" % sent)
                    sent += 1
                assert confirmed_to(p, sent) == []
            while len(got) < sent and (c.buffer or c.deliveries or select.select([c.sock], [], [], 0.05)[0]):
                tag, redelivered, body = c.delivery()
                assert body not in final, "%r came again after its acknowledgement was final" % body
                got.setdefault(body, []).append(redelivered)
                c.ack(tag)
                if len(got) % 50 == 0:
                    c.sync()
                    final = set(got)
            if sent >= 150 and not killed:
                killed = True
                leader.kill()
        assert len(got) == 400, (sent, len(got))
        assert all(r for body in got.values() for r in body[1:]), "a repeat without redelivered"
        c.sync()
        assert cluster.leader_of_queue(q) is not leader
        eventually(lambda: amqp(a).declare(q, passive=True)[1] == 0)


def what_a_client_holds_survives_the_leader():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p, c = amqp(a), amqp(b)
        p.declare(q)
        p.confirm_select()
        for i in range(30):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 30) == []
        c.qos(10)
        c.consume(q)
        held = [c.delivery() for _ in range(10)]
        leader.kill()
        eventually(lambda: cluster.leader_of_queue(q) not in (None, leader), 20)
        # What it holds is not delivered again, to it or to others; when it acknowledges, the rest comes.
        for tag, _, _ in held:
            c.ack(tag)
        for i in range(10, 30):
            tag, _, body = c.delivery()
            assert body == b"%d" % i, (i, body)
            c.ack(tag)
        c.sync()
        eventually(lambda: amqp(a).declare(q, passive=True)[1:] == (0, 1))


def followers_do_not_lead_with_what_they_saw_before():
    with formed() as cluster:
        q, leader, others = roles(cluster)
        expiring = shortstr("x-expires") + b"I" + struct.pack(">i", 600000)
        p = amqp(leader)
        p.declare(q, arguments=expiring)
        p.confirm_select()
        for i in range(5):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 5) == []
        for n in others:  # a queue that expires is looked at when a node starts, and any by who lists them
            n.stop()
            n.start()
            eventually(lambda: healthy(cluster), 30)
            row = next(x for x in eventually(lambda n=n: n.ctl("queues"), 30) if x["name"] == q)
            assert row["ready"] == 0 and "led by node" in row["error"], row
        assert next(x for x in leader.ctl("queues") if x["name"] == q)["ready"] == 5
        for i in range(5, 15):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 15) == []
        leader.kill()
        eventually(lambda: cluster.leader_of_queue(q) not in (None, leader), 20)
        c = amqp(others[0])
        c.consume(q)
        held = [c.delivery() for _ in range(15)]
        assert [x[2] for x in held] == [b"%d" % i for i in range(15)]
        c.ack(held[-1][0], multiple=True)
        c.sync()
        eventually(lambda: amqp(others[1]).declare(q, arguments=expiring)[1:] == (0, 1))


def a_queue_in_memory_goes_on_empty_when_its_leader_is_stopped():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p, c = amqp(a), amqp(b)
        p.declare(q, durable=False)
        p.confirm_select()
        c.qos(5)
        c.consume(q)
        for i in range(20):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 20) == []
        held = [c.delivery() for _ in range(5)]
        assert [x[2] for x in held] == [b"%d" % i for i in range(5)]
        leader.stop()
        eventually(lambda: cluster.leader_of_queue(q) not in (None, leader), 20)
        for tag, _, _ in held:
            c.ack(tag)  # of messages that are no more
        c.sync()
        p.publish(q, b"after")
        assert confirmed_to(p, 21) == []
        tag, redelivered, body = c.delivery()
        assert (redelivered, body) == (False, b"after"), (redelivered, body)
        c.ack(tag)
        c.sync()
        assert idle(c, 0.3)
        assert amqp(a).declare(q, durable=False, passive=True)[1:] == (0, 1)


def settlements_turn_from_a_silent_leader_to_the_next():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p = amqp(a)
        c = Amqp(b.ports["amqp"], host=b.host, timeout=25, user="rig", password="rig")  # below the time a leader is given that stays one
        p.declare(q)
        p.confirm_select()
        for i in range(10):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 10) == []
        c.consume(q)
        held = [c.delivery() for _ in range(10)]
        leader.pause()
        c.ack(held[4][0], multiple=True)
        c.sync()  # its answer waits for the acknowledgements, which the next leader takes while the old one is still silent
        c.nack(held[9][0], multiple=True)
        again = [c.delivery() for _ in range(5)]
        assert [(x[1], x[2]) for x in again] == [(True, b"%d" % i) for i in range(5, 10)]
        leader.resume()
        c.ack(again[4][0], multiple=True)
        c.sync()
        eventually(lambda: amqp(a).declare(q, passive=True)[1:] == (0, 1))


def a_shared_prefetch_is_one_bound_for_queues_of_several_nodes():
    with formed() as cluster:
        queues = [queue_led_by(cluster, n) for n in cluster.nodes.values()]
        c, p = amqp(cluster.nodes[1]), amqp(cluster.nodes[2])
        p.confirm_select()
        for q in queues:
            p.declare(q)
            for i in range(10):
                p.publish(q, b"%s.%d" % (q.encode(), i))
        assert confirmed_to(p, 30) == []

        def shared(n):
            c.method(1, 60, 10, struct.pack(">IHB", 0, n, 1))
            c.expect(60, 11)

        shared(3)
        for q in queues:
            c.consume(q)
        got = [c.delivery() for _ in range(3)]
        assert idle(c, 0.5)
        c.ack(got[0][0])
        got.append(c.delivery())
        assert idle(c, 0.3)
        shared(5)
        got += [c.delivery() for _ in range(2)]
        assert idle(c, 0.3)
        for i in range(1, 30):
            c.ack(got[i][0])
            if len(got) < 30:
                got.append(c.delivery())
        c.sync()
        assert {x[2] for x in got} == {b"%s.%d" % (q.encode(), i) for q in queues for i in range(10)}
        assert idle(c, 0.3)
        eventually(lambda: all(amqp(cluster.nodes[3]).declare(q, passive=True)[1:] == (0, 1) for q in queues))


def a_client_on_the_leader_follows_its_queue_to_the_next():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p, c = amqp(leader), amqp(leader)
        p.declare(q)
        p.confirm_select()
        for i in range(10):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 10) == []
        c.qos(5)
        c.consume(q)
        held = [c.delivery() for _ in range(5)]
        cluster.nodes[2].ctl("cluster", "transfer-leader", str(partition_of_queue(q)), str(node_id(cluster, cluster.nodes[2])))
        eventually(lambda: cluster.leader_of_queue(q) is cluster.nodes[2], 20)
        for tag, _, _ in held:
            c.ack(tag)
        rest = [c.delivery() for _ in range(5)]
        assert [x[1:] for x in rest] == [(False, b"%d" % i) for i in range(5, 10)]  # a planned transfer: never delivered before
        p.publish(q, b"after")
        assert confirmed_to(p, 11) == []
        for tag, _, _ in rest:
            c.ack(tag)
        assert c.delivery()[2] == b"after"


def the_minority_is_blocked_and_what_it_publishes_is_answered_when_the_others_are_back():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        c = notified(leader)
        c.declare(q)
        c.confirm_select()
        c.publish(q, b"before")
        assert confirmed_to(c, 1) == []
        a.pause()
        b.pause()
        time.sleep(1.5)
        for i in range(5):
            c.publish(q, b"alone %d" % i)
        assert c.step()[:2] == (10, 60), "connection.blocked"
        assert not c.confirms, c.confirms
        a.resume()
        b.resume()
        confirmed_to(c, 6)  # whatever the answer: it comes, and none was confirmed before
        eventually(lambda: healthy(cluster), 30)
        for i in range(5):
            c.publish(q, b"after %d" % i)
        assert confirmed_to(c, 11) == []
        d = amqp(a)
        got = set()
        while True:
            m = d.get(q, no_ack=True)
            if m is None:
                break
            got.add(m[3])
        assert got >= {b"before"} | {b"after %d" % i for i in range(5)}, got


def what_a_dead_gateways_clients_held_comes_back():
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p, c = amqp(a), amqp(b)
        p.declare(q)
        p.confirm_select()
        for i in range(8):
            p.publish(q, b"%d" % i)
        assert confirmed_to(p, 8) == []
        c.qos(5)
        c.consume(q)
        for i in range(5):
            assert c.delivery()[2] == b"%d" % i
        c.ack(1)
        c.sync()
        assert c.delivery()[2] == b"5"
        b.kill()
        d = amqp(leader)
        d.consume(q)
        got = sorted((d.delivery() for _ in range(7)), key=lambda x: int(x[2]))
        assert [x[2] for x in got] == [b"%d" % i for i in range(1, 8)]
        assert all(x[1] for x in got[:5]), got  # those that were delivered before


def batches_count_once_while_the_leadership_wanders():
    """Rule 16: what is sent again after a change of leader is dropped when it came already; nothing is lost, doubled or reordered."""
    with formed() as cluster:
        q, leader, (a, b) = roles(cluster)
        p = amqp(a)
        p.declare(q)
        p.confirm_select()
        ids = [node_id(cluster, n) for n in (b, a, leader)]
        sent = 0
        for move in range(6):
            for _ in range(20):
                p.send(b"".join(p.publish_bytes(q, b"%d" % (sent + i)) for i in range(10)))
                sent += 10
                if _ == 8:
                    try:
                        cluster.nodes[2].ctl("cluster", "transfer-leader", str(partition_of_queue(q)), str(ids[move % 3]))
                    except OSError:
                        pass  # it goes on where it is
                time.sleep(0.01)
        assert confirmed_to(p, sent) == []
        c = amqp(b)
        c.qos(200)
        c.consume(q)
        for i in range(sent):
            tag, _, body = c.delivery()
            assert body == b"%d" % i, (i, body)
            c.ack(tag)
        c.sync()
        assert idle(c, 0.3)


run_tests([declared_on_one_published_through_another_consumed_through_the_third, gets_purges_and_large_messages_through_another_node,
           unsettled_deliveries_come_back_when_their_connection_or_channel_ends, exclusive_queues_stay_with_their_connection_and_replies_find_them,
           a_deleted_queue_ends_its_consumers_on_other_nodes, the_queues_leader_is_killed_and_nothing_confirmed_is_lost, what_a_client_holds_survives_the_leader,
           server_properties_tell_where_queues_are_led, the_minority_is_blocked_and_what_it_publishes_is_answered_when_the_others_are_back, a_client_on_the_leader_follows_its_queue_to_the_next,
           a_queue_in_memory_goes_on_empty_when_its_leader_is_stopped, followers_do_not_lead_with_what_they_saw_before, settlements_turn_from_a_silent_leader_to_the_next, a_shared_prefetch_is_one_bound_for_queues_of_several_nodes,
           what_a_dead_gateways_clients_held_comes_back, batches_count_once_while_the_leadership_wanders])
