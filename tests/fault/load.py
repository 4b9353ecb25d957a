"""Clients of all three protocols that work while the cluster is being hurt, and what they learned.

    load = Load(endpoints, history)      # endpoints: {protocol: [(host, port) of every node]}
    load.setup(); load.start(); ... faults ...; load.stop(); load.final(); problems = load.check()

Each protocol has its module: load_resp.py, load_kafka.py, load_amqp.py. Clients are threads over tests/integration/wire.py, each with one lane (a thing that fails
over as one), so that a dead lane holds up nobody else; rates are modest, since the machine that runs three nodes also runs the clients.
"""
import threading
import time

from history import OK

PAUSE_S = 0.02    # between two operations of one client
OP_TIMEOUT_S = 0.7  # after which a client gives an answer up and asks another node: below the time a failover takes


class Client(threading.Thread):
    """Calls step() until told to stop. A step handles the errors of its connection itself; any other exception is a bug of the test and ends the run."""

    def __init__(self, load, name, lane):
        super().__init__(daemon=True, name=name)
        self.load, self.history, self.lane = load, load.history, lane
        self.rng = load.rng_for(name)
        self.error = None
        self.asked_to_stop = threading.Event()

    def run(self):
        try:
            while not self.asked_to_stop.is_set():
                self.step()
                self.asked_to_stop.wait(self.load.pause)
        except Exception as e:  # reported by Load.stop
            self.error = e
        finally:
            self.leave()

    def step(self):
        raise NotImplementedError

    def leave(self):
        pass

    def strange(self, text):
        """An answer that nobody should ever get from a cluster, however hurt."""
        self.load.add_strange(self.name, text)


class Load:
    def __init__(self, endpoints, history, seed=0, protocols=("resp", "kafka", "amqp"), lanes=4, pause=PAUSE_S, timeout=OP_TIMEOUT_S, partitions=32, name="load", wait=False):
        import load_amqp
        import load_kafka
        import load_resp

        self.endpoints, self.history, self.seed = endpoints, history, seed
        self.name = name  # part of the names of its keys, topics and queues
        self.lanes, self.pause, self.timeout, self.partitions = lanes, pause, timeout, partitions
        self.wait = wait  # kv.ack is leader: sets are acknowledged by WAIT, and nothing else is judged
        self.odd, self.lock = [], threading.Lock()
        kinds = {"resp": load_resp.RespLoad, "kafka": load_kafka.KafkaLoad, "amqp": load_amqp.AmqpLoad}
        self.parts = [kinds[p](self) for p in protocols]
        self.clients = []

    def part(self, protocol):
        """The load's part of a protocol, or None when it is left out."""
        return next((p for p in self.parts if p.protocol == protocol), None)

    def rng_for(self, name):
        import random

        return random.Random("%d %s" % (self.seed, name))

    def add_strange(self, who, text):
        with self.lock:
            self.odd.append("%.3f %s: %s" % (time.monotonic(), who, text))

    def setup(self):
        for p in self.parts:
            p.setup()

    def start(self):
        for p in self.parts:
            self.clients += p.clients()
        for c in self.clients:
            c.start()

    def wait_writing(self, timeout=20):
        """Until every lane has written: the load is under way. Returns the seconds."""
        begin = time.monotonic()
        want = {(p.protocol, lane) for p in self.parts for lane in p.lane_names()}
        while True:
            have = {(o.protocol, o.lane) for o in self.history.ops() if o.outcome == OK and o.kind != "r" and o.start >= begin}
            if want <= have:
                return time.monotonic() - begin
            if time.monotonic() > begin + timeout:
                raise TimeoutError("no writes on %s" % sorted(want - have))
            self.raise_errors()
            time.sleep(0.05)

    def raise_errors(self):
        for c in self.clients:
            if c.error is not None:
                raise c.error

    def stop(self):
        for c in self.clients:
            c.asked_to_stop.set()
        for c in self.clients:
            c.join(60)
            if c.is_alive():
                raise TimeoutError("%s does not end" % c.name)
        self.raise_errors()

    def final(self, timeout=30):
        """Reads everything back; the cluster is healed."""
        for p in self.parts:
            p.final(timeout)

    def check(self):
        problems = ["strange: " + s for s in self.odd[:20]]
        for p in self.parts:
            problems += p.check()
        return problems
