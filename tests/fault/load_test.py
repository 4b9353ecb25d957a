"""The load itself, against one node alone: all three protocols find what they wrote, across kill -9 too; and what is planted in what they learned is found."""
import os
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration")]
from history import OK, History  # noqa: E402
from load import Load  # noqa: E402
from node import run_tests  # noqa: E402
from rig import Cluster  # noqa: E402


def endpoints(cluster):
    return {p: [(n.host, n.ports[p]) for n in cluster.nodes.values()] for p in ("resp", "kafka", "amqp")}


def the_load_is_consistent_across_kills_of_a_node_alone():
    with Cluster(1, loopback=True, independent=True, config={"kv.ack": "quorum", "log.fsync_interval": "50ms"}) as c:
        node = c.nodes[1]
        c.start()
        node.wait_ready()
        c.wait_formed()
        h = History()
        load = Load(endpoints(c), h, seed=1, timeout=2)
        load.setup()
        load.start()
        load.wait_writing()
        for _ in range(3):
            time.sleep(0.7)
            node.kill()
            node.start().wait_ready()
        time.sleep(0.5)
        load.stop()
        load.final()
        problems = load.check() + c.problems()
        assert not problems, problems
        counts = h.counts()
        for protocol in ("resp", "kafka", "amqp", "group"):
            assert counts[protocol][OK] > 50, counts
        assert sum(x["unknown"] + x["fail"] for x in counts.values()) > 0, "nobody noticed the kills"
        print(counts)
        plant(h, load)


def plant(h, load):
    """Each part of the load reports what is planted into what it learned."""
    resp, kafka, amqp = load.parts
    stream, queue = next(s for s in kafka.streams.values() if s.acked), next(q for q in amqp.queues.values() if q.confirmed)
    lost_key = next(k for k in sorted(resp.found) if resp.found[k] and k.endswith(":set"))
    resp.found[lost_key].pop()
    stream.final.pop(len(stream.final) // 2)
    body = sorted(queue.confirmed)[0]
    queue.deliveries = [d for d in queue.deliveries if d[2] != body]
    read = next(o for o in h.ops("resp", "r") if o.client == "final" and ":reg:" in o.key)
    read.value = "something else"
    found = load.check()
    for word in ("C1 set %s" % lost_key, "C2 %s" % read.key, "C3 " + stream.name, "C4 " + queue.name):
        assert any(p.startswith(word) for p in found), (word, found)


if __name__ == "__main__":
    run_tests([the_load_is_consistent_across_kills_of_a_node_alone])
