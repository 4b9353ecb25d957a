"""redis-py, unchanged, against the server: the commands of each type, transactions, blocking, pub/sub, scan."""
import threading
import time

import redis

from compat import main, raises, same, test, unique, until


def client(t, **kw):
    kw.setdefault("decode_responses", True)
    kw.setdefault("socket_timeout", 20)
    return redis.Redis(host=t.host, port=t.port, **kw)


def fresh(t, **kw):
    r = client(t, **kw)
    r.flushall()
    return r


# ---- connection -------------------------------------------------------------

@test
def ping_and_echo(t):
    r = fresh(t)
    same(r.ping(), True)
    same(r.echo("hello"), "hello")
    same(r.echo("two words"), "two words")


@test
def select_keeps_databases_apart(t):
    a, b = fresh(t, db=0), client(t, db=5)
    a.set("k", "zero")
    same(b.get("k"), None)
    b.set("k", "five")
    same(a.get("k"), "zero")
    same((a.dbsize(), b.dbsize()), (1, 1))
    b.flushdb()
    same((a.dbsize(), b.dbsize()), (1, 0))


@test
def flushall_empties_every_database(t):
    a, b = fresh(t, db=0), client(t, db=9)
    a.set("k", 1)
    b.set("k", 1)
    same(a.flushall(), True)
    same((a.dbsize(), b.dbsize()), (0, 0))


@test
def client_name_and_id(t):
    r = client(t, single_connection_client=True)
    same(r.client_getname(), None)
    same(r.client_setname("compat"), True)
    same(r.client_getname(), "compat")
    me = r.client_id()
    assert me > 0
    rows = [c for c in r.client_list() if c["id"] == str(me)]
    same(len(rows), 1)
    same(rows[0]["name"], "compat")
    for field in ("addr", "db", "age", "idle", "flags", "cmd"):
        assert field in rows[0], field
    second = client(t, single_connection_client=True)
    assert second.client_id() > me


@test
def resp3_hello(t):
    r = client(t, protocol=3, single_connection_client=True)
    hello = r.execute_command("HELLO", "3")
    same(hello["server"], "redis")
    same(hello["proto"], 3)
    same(hello["role"], "master")
    assert hello["version"].split(".")[0].isdigit()
    r.flushall()
    r.hset("h", mapping={"a": "1", "b": "2"})
    same(r.hgetall("h"), {"a": "1", "b": "2"})
    same(r.get("absent"), None)


@test
def info_has_what_monitors_read(t):
    info = fresh(t).info()
    for field in ("redis_version", "process_id", "uptime_in_seconds", "connected_clients", "used_memory", "role", "tcp_port",
                  "total_commands_processed", "loading"):
        assert field in info, field
    same(info["role"], "master")
    same(info["tcp_port"], t.port)
    r = client(t)
    r.set("k", 1)
    keyspace = r.info("keyspace")
    same(keyspace["db0"]["keys"], 1)


@test
def config_get_and_set(t):
    r = client(t)
    before = r.config_get("maxmemory")
    same(list(before), ["maxmemory"])
    assert "maxmemory-policy" in r.config_get("maxmemory*")
    old = r.config_get("slowlog-log-slower-than")["slowlog-log-slower-than"]
    same(r.config_set("slowlog-log-slower-than", 12345), True)
    same(r.config_get("slowlog-log-slower-than"), {"slowlog-log-slower-than": "12345"})
    r.config_set("slowlog-log-slower-than", old)
    same(r.config_get("no-such-option"), {})


@test
def command_table(t):
    r = client(t)
    count = r.command_count()
    assert count > 20, count
    get = r.execute_command("COMMAND", "INFO", "get")["get"]
    same(get["arity"], 2)
    same((get["first_key_pos"], get["last_key_pos"], get["step_count"]), (1, 1, 1))
    mset = r.execute_command("COMMAND", "INFO", "mset")["mset"]
    same((mset["arity"], mset["first_key_pos"], mset["last_key_pos"], mset["step_count"]), (-3, 1, -1, 2))


# ---- strings ----------------------------------------------------------------

@test
def get_and_set(t):
    r = fresh(t)
    same(r.get("k"), None)
    same(r.set("k", "v"), True)
    same(r.get("k"), "v")
    same(r.set("k", ""), True)
    same(r.get("k"), "")
    same(r.exists("k"), 1)
    same(r.delete("k", "absent"), 1)
    same(r.exists("k"), 0)


@test
def values_are_binary_safe(t):
    r = fresh(t, decode_responses=False)
    blob = bytes(range(256)) * 20
    same(r.set(blob, blob), True)
    same(r.get(blob), blob)
    same(list(r.scan_iter()), [blob])


@test
def values_of_many_sizes(t):
    r = fresh(t, decode_responses=False)
    for size in (0, 1, 15, 16, 63, 64, 255, 256, 511, 512, 513, 4095, 4096, 65535, 65536, 1 << 20, 5 << 20):
        value = (b"%d," % size) * (size // 2 + 1)
        value = value[:size]
        r.set("size", value)
        same(r.get("size") == value, True, "value of %d bytes" % size)


@test
def set_nx_and_xx(t):
    r = fresh(t)
    same(r.set("k", "a", xx=True), None)
    same(r.set("k", "a", nx=True), True)
    same(r.set("k", "b", nx=True), None)
    same(r.get("k"), "a")
    same(r.set("k", "c", xx=True), True)
    same(r.get("k"), "c")


@test
def set_get_returns_the_old_value(t):
    r = fresh(t)
    same(r.set("k", "a", get=True), None)
    same(r.set("k", "b", get=True), "a")
    same(r.set("k", "c", get=True, nx=True), "b")
    same(r.get("k"), "b")
    r.lpush("l", 1)
    raises(redis.ResponseError, None, r.set, "l", "x", get=True)
    same(r.rpop("l"), "1")


@test
def set_with_expiry(t):
    r = fresh(t)
    r.set("ex", 1, ex=100)
    assert 98 <= r.ttl("ex") <= 100
    r.set("px", 1, px=100000)
    assert 98 <= r.ttl("px") <= 100
    r.set("exat", 1, exat=int(time.time()) + 100)
    assert 98 <= r.ttl("exat") <= 101
    r.set("pxat", 1, pxat=int(time.time() * 1000) + 100000)
    assert 98 <= r.ttl("pxat") <= 101
    r.set("ex", 2, keepttl=True)
    same(r.get("ex"), "2")
    assert 98 <= r.ttl("ex") <= 100
    r.set("ex", 3)
    same(r.ttl("ex"), -1)
    same(r.ttl("absent"), -2)
    r.set("past", 1)
    r.set("past", 1, exat=1)
    same(r.exists("past"), 0)


@test
def keys_expire(t):
    r = fresh(t)
    r.set("k", 1, px=60)
    same(r.get("k"), "1")
    until("key expires", lambda: r.get("k") is None, 5)
    same(r.exists("k"), 0)
    for i in range(50):
        r.set("many%d" % i, i, px=50)
    until("keys nobody reads are removed too", lambda: r.dbsize() == 0, 10)


@test
def expire_and_ttl(t):
    r = fresh(t)
    same(r.expire("absent", 10), False)
    r.set("k", 1)
    same(r.ttl("k"), -1)
    same(r.expire("k", 100), True)
    assert 98 <= r.ttl("k") <= 100
    same(r.expire("k", -1), True)
    same(r.exists("k"), 0)


@test
def incr_counts(t):
    r = fresh(t)
    same([r.execute_command("INCR", "n") for _ in range(3)], [1, 2, 3])
    r.set("n", "9223372036854775806")
    same(r.execute_command("INCR", "n"), 9223372036854775807)
    raises(redis.ResponseError, "increment or decrement would overflow", r.execute_command, "INCR", "n")
    for bad in ("abc", "1.5", "", " 1", "9223372036854775808"):
        r.set("n", bad)
        raises(redis.ResponseError, "value is not an integer or out of range", r.execute_command, "INCR", "n")


@test
def incr_keeps_the_expiry(t):
    r = fresh(t)
    r.set("n", 5, ex=100)
    same(r.execute_command("INCR", "n"), 6)
    assert 98 <= r.ttl("n") <= 100


@test
def incr_by_many_clients_loses_nothing(t):
    fresh(t)

    def work():
        r = client(t)
        for _ in range(300):
            r.execute_command("INCR", "counter")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for th in threads:
        th.start()
    for th in threads:
        th.join()
    same(client(t).get("counter"), "1800")


@test
def mset_and_mget_over_many_partitions(t):
    r = fresh(t)
    pairs = {"key:%d" % i: "value %d" % i for i in range(500)}
    same(r.mset(pairs), True)
    same(r.mget(list(pairs) + ["absent"]), list(pairs.values()) + [None])
    r.lpush("list", 1)
    same(r.mget("list", "key:1"), [None, "value 1"])
    same(r.dbsize(), 501)
    same(r.delete(*pairs), 500)


@test
def mset_is_atomic_for_readers(t):
    """A reader never sees half of an MSET, although the keys lie in different partitions."""
    fresh(t)
    keys = ["atomic:%d" % i for i in range(16)]
    stop = threading.Event()
    torn = []

    def reader():
        r = client(t)
        while not stop.is_set():
            seen = set(r.mget(keys))
            if len(seen) > 1:
                torn.append(seen)
                return

    w = client(t)
    w.mset({k: "0" for k in keys})
    readers = [threading.Thread(target=reader) for _ in range(3)]
    for th in readers:
        th.start()
    for i in range(400):
        w.mset({k: str(i) for k in keys})
    stop.set()
    for th in readers:
        th.join()
    same(torn, [])


# ---- hashes and lists -------------------------------------------------------

@test
def hashes(t):
    r = fresh(t)
    same(r.hset("h", "f", "1"), 1)
    same(r.hset("h", "f", "2"), 0)
    same(r.hset("h", mapping={"f": "3", "g": "4", "": "empty name"}), 2)
    same(r.hget("h", "f"), "3")
    same(r.hget("h", "absent"), None)
    same(r.hget("absent", "f"), None)
    same(r.hgetall("h"), {"f": "3", "g": "4", "": "empty name"})
    same(r.hgetall("absent"), {})


@test
def big_hash(t):
    r = fresh(t)
    want = {"field:%d" % i: "value:%d" % (i * i) for i in range(5000)}
    r.hset("h", mapping=want)
    same(r.hgetall("h"), want)
    same(r.hget("h", "field:4999"), want["field:4999"])
    same(r.delete("h"), 1)
    same(r.hgetall("h"), {})


@test
def hash_expires_whole(t):
    r = fresh(t)
    r.hset("h", "f", 1)
    same(r.expire("h", 100), True)
    r.hset("h", "g", 2)
    assert 98 <= r.ttl("h") <= 100
    r.expire("h", 0)
    same(r.exists("h"), 0)


@test
def lists_are_queues(t):
    r = fresh(t)
    same(r.lpush("l", "a"), 1)
    same(r.lpush("l", "b", "c"), 3)
    same([r.rpop("l") for _ in range(4)], ["a", "b", "c", None])
    same(r.exists("l"), 0)
    r.lpush("l", *range(10))
    same(r.rpop("l", 3), ["0", "1", "2"])
    same(r.rpop("l", 0), [])
    same(r.rpop("l", 100), ["3", "4", "5", "6", "7", "8", "9"])
    same(r.rpop("l", 1), None)


@test
def list_elements_by_index(t):
    r = fresh(t)
    r.rpush("l", *range(3000))
    same([r.lindex("l", i) for i in (0, 1, 1499, 2999, -1, -3000)], ["0", "1", "1499", "2999", "2999", "0"])
    same([r.lindex("l", i) for i in (3000, -3001, 2**63 - 1, -2**63)], [None] * 4)
    r.lpop("l", 1000)
    same([r.lindex("l", i) for i in (0, -1, 1999, 2000)], ["1000", "2999", "2999", None])
    same(r.lindex("absent", 0), None)


@test
def long_list(t):
    r = fresh(t)
    p = r.pipeline(transaction=False)
    for i in range(20000):
        p.lpush("l", "element %d" % i)
    same(p.execute()[-1], 20000)
    got = []
    while True:
        part = r.rpop("l", 777)
        if part is None:
            break
        got += part
    same(got == ["element %d" % i for i in range(20000)], True)


@test
def blpop_takes_what_is_there(t):
    r = fresh(t)
    r.lpush("b", "1")
    same(r.blpop(["a", "b"], timeout=1), ("b", "1"))
    start = time.monotonic()
    same(r.execute_command("BLPOP", "a", "b", "0.2"), None)
    assert time.monotonic() - start > 0.15


@test
def blpop_waits_for_another_client(t):
    r = fresh(t)
    got = []

    def wait():
        got.append(client(t).blpop(["x", "y", "z"], timeout=10))

    th = threading.Thread(target=wait)
    th.start()
    until("the client is blocked", lambda: any(c["cmd"] == "blpop" for c in r.client_list()))
    same(r.lpush("y", "pushed"), 1)
    th.join()
    same(got, [("y", "pushed")])
    same(r.exists("y"), 0)


@test
def blpop_serves_in_order_of_waiting(t):
    r = fresh(t)
    got = {}

    def wait(n):
        got[n] = client(t).blpop("q", timeout=10)

    threads = []
    for n in range(4):
        th = threading.Thread(target=wait, args=(n,))
        th.start()
        threads.append(th)
        until("client %d is blocked" % n, lambda m=n: sum(c["cmd"] == "blpop" for c in r.client_list()) == m + 1)
    for n in range(4):
        r.lpush("q", "m%d" % n)
    for th in threads:
        th.join()
    same(got, {n: ("q", "m%d" % n) for n in range(4)})


@test
def blpop_among_many_loses_and_repeats_nothing(t):
    fresh(t)
    got = []
    lock = threading.Lock()

    def take():
        r = client(t)
        while True:
            item = r.blpop(["work:1", "work:2", "work:3"], timeout=10)
            if item is None or item[1] == "end":
                return
            with lock:
                got.append(item[1])

    takers = [threading.Thread(target=take) for _ in range(5)]
    for th in takers:
        th.start()
    r = client(t)
    for i in range(600):
        r.lpush("work:%d" % (i % 3 + 1), i)
    until("all taken", lambda: len(got) == 600)
    for _ in takers:
        r.lpush("work:1", "end")
    for th in takers:
        th.join()
    same(sorted(map(int, got)), list(range(600)))


@test
def blpop_in_a_transaction_does_not_wait(t):
    r = fresh(t)
    p = r.pipeline(transaction=True)
    p.execute_command("BLPOP", "empty", 0)
    same(p.execute(), [None])


@test
def push_in_a_transaction_wakes_after_exec(t):
    r = fresh(t)
    got = []
    th = threading.Thread(target=lambda: got.append(client(t).blpop("tx", timeout=10)))
    th.start()
    until("the client is blocked", lambda: any(c["cmd"] == "blpop" for c in r.client_list()))
    p = r.pipeline(transaction=True)
    p.lpush("tx", "1")
    p.delete("tx")
    p.lpush("tx", "2")
    same(p.execute(), [1, 1, 1])
    th.join()
    same(got, [("tx", "2")])


@test
def wrong_type(t):
    r = fresh(t)
    r.set("s", 1)
    r.lpush("l", 1)
    r.hset("h", "f", 1)
    for call in ((r.get, "l"), (r.get, "h"), (r.hget, "s", "f"), (r.hgetall, "l"), (r.hset, "l", "f", 1), (r.lpush, "s", 1),
                 (r.rpop, "h"), (r.execute_command, "INCR", "l"), (r.blpop, "s", 1),
                 (r.lindex, "s", 0)):
        exc = raises(redis.ResponseError, None, *call)
        assert "Operation against a key holding the wrong kind of value" in str(exc), exc
    same(r.set("l", "now a string"), True)
    same(r.get("l"), "now a string")


# ---- transactions -----------------------------------------------------------

@test
def multi_over_many_partitions(t):
    r = fresh(t)
    p = r.pipeline(transaction=True)
    for i in range(100):
        p.set("tx:%d" % i, i)
        p.execute_command("INCR", "tx:%d" % i)
    p.hset("tx:h", "f", "v")
    p.lpush("tx:l", "e")
    out = p.execute()
    same(out[:4], [True, 1, True, 2])
    same(out[-2:], [1, 1])
    same(r.mget(["tx:%d" % i for i in range(100)]), [str(i + 1) for i in range(100)])


@test
def multi_error_inside_does_not_stop_the_rest(t):
    r = fresh(t)
    r.lpush("l", 1)
    p = r.pipeline(transaction=True)
    p.set("a", 1)
    p.get("l")
    p.set("b", 2)
    out = p.execute(raise_on_error=False)
    same(out[0], True)
    assert isinstance(out[1], redis.ResponseError)
    same(out[2], True)
    same(r.mget("a", "b"), ["1", "2"])


@test
def multi_is_atomic_for_readers(t):
    fresh(t)
    keys = ["m:%d" % i for i in range(12)]
    stop = threading.Event()
    torn = []

    def reader():
        r = client(t)
        while not stop.is_set():
            p = r.pipeline(transaction=True)
            for k in keys:
                p.get(k)
            seen = set(p.execute())
            if len(seen) > 1:
                torn.append(seen)
                return

    w = client(t)
    w.mset({k: 0 for k in keys})
    th = [threading.Thread(target=reader) for _ in range(2)]
    for x in th:
        x.start()
    for i in range(200):
        p = w.pipeline(transaction=True)
        for k in keys:
            p.set(k, i)
        p.execute()
    stop.set()
    for x in th:
        x.join()
    same(torn, [])


@test
def watch_catches_other_writers(t):
    r, other = fresh(t), client(t)
    r.set("k", 1)
    with r.pipeline() as p:
        p.watch("k", "also")
        other.set("k", 2)
        p.multi()
        p.set("k", 3)
        raises(redis.WatchError, None, p.execute)
    same(r.get("k"), "2")
    with r.pipeline() as p:
        p.watch("k")
        p.multi()
        p.set("k", 3)
        same(p.execute(), [True])
    same(r.get("k"), "3")


@test
def watch_sees_delete_create_and_expiry(t):
    r, other = fresh(t), client(t)
    for change in (lambda: other.delete("k"), lambda: other.flushall(), lambda: other.expire("k", 100),
                   lambda: other.set("k", "same value")):
        r.set("k", "same value")
        with r.pipeline() as p:
            p.watch("k")
            change()
            p.multi()
            p.set("out", 1)
            raises(redis.WatchError, None, p.execute)
    r.flushall()
    with r.pipeline() as p:
        p.watch("created")
        other.set("created", 1)
        p.multi()
        p.set("out", 1)
        raises(redis.WatchError, None, p.execute)
    r.set("k", 1)
    with r.pipeline() as p:
        p.watch("k")
        same(other.delete("absent"), 0)
        other.get("k")
        p.multi()
        p.set("out", 1)
        same(p.execute(), [True])


@test
def optimistic_counter(t):
    """The classic check-and-set loop of the Redis manual, with contention."""
    fresh(t).set("cas", 0)

    def work():
        r = client(t)
        for _ in range(60):
            def bump(p):
                now = int(p.get("cas"))
                p.multi()
                p.set("cas", now + 1)
            r.transaction(bump, "cas")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for th in threads:
        th.start()
    for th in threads:
        th.join()
    same(client(t).get("cas"), "240")


@test
def unwatch_and_discard(t):
    r, other = fresh(t), client(t)
    with r.pipeline() as p:
        p.watch("k")
        other.set("k", 1)
        p.unwatch()
        p.multi()
        p.set("k", 2)
        same(p.execute(), [True])
    c = client(t, single_connection_client=True)
    c.execute_command("MULTI")
    c.execute_command("SET", "k", "never")
    c.execute_command("DISCARD")
    same(c.get("k"), "2")


# ---- pub/sub ----------------------------------------------------------------

@test
def publish_and_subscribe(t):
    r = client(t)
    p = r.pubsub()
    a, b = unique("ch"), unique("ch")
    same(r.publish(a, "nobody"), 0)
    p.subscribe(a, b)
    same([p.get_message(timeout=5)["data"] for _ in range(2)], [1, 2])
    same(r.publish(a, "one"), 1)
    same(r.publish(b, "two"), 1)
    one, two = p.get_message(timeout=5), p.get_message(timeout=5)
    same((one["type"], one["channel"], one["data"]), ("message", a, "one"))
    same((two["channel"], two["data"]), (b, "two"))
    p.unsubscribe(a)
    same(p.get_message(timeout=5)["data"], 1)
    same(r.publish(a, "again"), 0)
    p.ping()
    same(p.get_message(timeout=5)["type"], "pong")
    p.close()
    until("the closed subscriber is forgotten", lambda: r.publish(b, "x") == 0)


@test
def publish_reaches_every_subscriber_in_order(t):
    r = client(t)
    ch = unique("ch")
    subs = []
    for _ in range(8):
        p = client(t).pubsub()
        p.subscribe(ch)
        same(p.get_message(timeout=5)["type"], "subscribe")
        subs.append(p)
    for i in range(200):
        same(r.publish(ch, i), 8)
    for p in subs:
        same([p.get_message(timeout=5)["data"] for _ in range(200)], [str(i) for i in range(200)])
        p.close()


@test
def resp3_push_messages(t):
    r = client(t, protocol=3)
    p = r.pubsub()
    ch = unique("ch")
    p.subscribe(ch)
    same(p.get_message(timeout=5)["type"], "subscribe")
    r.publish(ch, "push")
    same(p.get_message(timeout=5)["data"], "push")
    p.close()


# ---- scan, pipelines --------------------------------------------------------

@test
def scan_returns_every_key(t):
    r = fresh(t)
    for base in range(0, 10000, 1000):
        r.mset({"scan:%d" % i: i for i in range(base, base + 1000)})
    same(r.dbsize(), 10000)
    same(set(r.scan_iter(count=100)), {"scan:%d" % i for i in range(10000)})
    same(set(r.scan_iter(match="scan:12?", count=1000)), {"scan:12%d" % i for i in range(10)})


@test
def scan_covers_what_stays_while_others_come_and_go(t):
    """The guarantee of SCAN: an element present from start to end of a full iteration is returned."""
    r = fresh(t)
    stay = {"stay:%d" % i for i in range(2000)}
    r.mset({k: 1 for k in stay})
    seen, cursor, turn = set(), 0, 0
    while True:
        cursor, part = r.scan(cursor, count=20)
        seen.update(part)
        turn += 1
        r.mset({"come:%d:%d" % (turn, i): 1 for i in range(60)})
        if turn % 3 == 0:
            r.delete(*["come:%d:%d" % (turn - 2, i) for i in range(60)])
        if cursor == 0:
            break
        assert turn < 20000, "the scan does not end"
    same(stay - seen, set())


@test
def scan_by_type(t):
    r = fresh(t)
    r.mset({"s%d" % i: 1 for i in range(50)})
    for i in range(20):
        r.hset("h%d" % i, "f", 1)
        r.lpush("l%d" % i, 1)
    same(set(r.scan_iter(_type="hash")), {"h%d" % i for i in range(20)})
    same(set(r.scan_iter(_type="list", match="l1*")), {"l1"} | {"l1%d" % i for i in range(10)})
    same(len(set(r.scan_iter(_type="string"))), 50)


@test
def pipelines_keep_their_order(t):
    r = fresh(t)
    p = r.pipeline(transaction=False)
    for i in range(3000):
        p.set("p:%d" % (i % 97), i)
        p.get("p:%d" % (i % 97))
    out = p.execute()
    same(out[1::2] == [str(i) for i in range(3000)], True)
    same(all(x is True for x in out[::2]), True)


@test
def errors_inside_a_pipeline(t):
    r = fresh(t)
    p = r.pipeline(transaction=False)
    p.set("k", "text")
    p.execute_command("INCR", "k")
    p.execute_command("NOSUCH", "k")
    p.get("k")
    out = p.execute(raise_on_error=False)
    same(out[0], True)
    same(str(out[1]), "value is not an integer or out of range")
    assert "unknown command" in str(out[2])
    same(out[3], "text")


if __name__ == "__main__":
    main()
