"""RESP byte by byte: exact replies, error texts, inline commands, limits, RESP3 types."""
import socket
import time

from compat import Skip, Wire, contains, main, same, test, until

WRONGTYPE = "-WRONGTYPE Operation against a key holding the wrong kind of value"
SYNTAX = "-ERR syntax error"
NOT_INT = "-ERR value is not an integer or out of range"


def version(w):
    text = w.do("INFO", "server").decode()
    line = [x for x in text.split("\r\n") if x.startswith("redis_version:")][0]
    return tuple(int(x) for x in line.split(":")[1].split(".")[:2])


@test
def exact_replies(t):
    with Wire(t) as w:
        w.do("FLUSHALL")
        for command, reply in (
                (("PING",), b"+PONG\r\n"),
                (("PING", "x"), b"$1\r\nx\r\n"),
                (("ECHO", ""), b"$0\r\n\r\n"),
                (("SET", "k", "v"), b"+OK\r\n"),
                (("GET", "k"), b"$1\r\nv\r\n"),
                (("GET", "absent"), b"$-1\r\n"),
                (("SET", "k", "v", "NX"), b"$-1\r\n"),
                (("EXISTS", "k", "k", "absent"), b":2\r\n"),
                (("TOUCH", "k", "k", "absent"), b":2\r\n"),
                (("LINDEX", "absent", "0"), b"$-1\r\n"),
                (("LINDEX", "absent", "abc"), b"$-1\r\n"),
                (("MGET", "k", "absent"), b"*2\r\n$1\r\nv\r\n$-1\r\n"),
                (("DEL", "k"), b":1\r\n"),
                (("HGETALL", "absent"), b"*0\r\n"),
                (("RPOP", "absent"), b"$-1\r\n"),
                (("RPOP", "absent", "2"), b"*-1\r\n"),
                (("BLPOP", "absent", "0.01"), b"*-1\r\n"),
                (("MULTI",), b"+OK\r\n"),
                (("GET", "k"), b"+QUEUED\r\n"),
                (("EXEC",), b"*1\r\n$-1\r\n"),
                (("MULTI",), b"+OK\r\n"),
                (("EXEC",), b"*0\r\n"),
                (("SELECT", "3"), b"+OK\r\n"),
                (("SELECT", "0"), b"+OK\r\n"),
        ):
            w.send(w.pack(*command))
            got = b""
            while len(got) < len(reply):
                part = w.file.read(len(reply) - len(got))
                if not part:
                    break
                got += part
            same(got, reply, " ".join(command))


@test
def names_like_the_last(t):
    """A server may remember the command it ran last: what is only like its name must not pass for it."""
    with Wire(t) as w:
        w.do("SET", "k", "v")
        for name, known in ((b"GET", True), (b"get", True), (b"GeT", True), (b"GET\0", False), (b"GETX", False), (b"GET", True),
                            (b"GE", False), (b"GETDE", False), (b"STRLEN", True), (b"STRLE", False), (b"STRLEN\0", False),
                            (b"STRLEN\0\0", False), (b"STRLENS", False), (b"STRLEN", True), (b"TRLEN", False), (b"", False)):
            answers = [w.do(name, b"k"), w.do(name, b"k")]
            same(answers[0], answers[1], repr(name))
            same(answers[0] in (b"v", 1), known, repr(name))


@test
def error_texts(t):
    with Wire(t) as w:
        w.do("FLUSHALL")
        w.do("SET", "s", "text")
        w.do("LPUSH", "l", "1")
        for command, reply in (
                (("NOSUCH",), "-ERR unknown command 'NOSUCH', with args beginning with: "),
                (("nosuch", "a", "bc"), "-ERR unknown command 'nosuch', with args beginning with: 'a' 'bc' "),
                (("GET",), "-ERR wrong number of arguments for 'get' command"),
                (("GET", "a", "b"), "-ERR wrong number of arguments for 'get' command"),
                (("MSET", "a"), "-ERR wrong number of arguments for 'mset' command"),
                (("MSET", "a", "b", "c"), "-ERR wrong number of arguments for 'mset' command"),
                (("HSET", "h", "f"), "-ERR wrong number of arguments for 'hset' command"),
                (("HSET", "h", "f", "v", "g"), "-ERR wrong number of arguments for 'hset' command"),
                (("SET", "k", "v", "BAD"), SYNTAX),
                (("SET", "k", "v", "NX", "XX"), SYNTAX),
                (("SET", "k", "v", "EX", "10", "PX", "10"), SYNTAX),
                (("SET", "k", "v", "EX", "10", "KEEPTTL"), SYNTAX),
                (("SET", "k", "v", "EX"), SYNTAX),
                (("SET", "k", "v", "EX", "0"), "-ERR invalid expire time in 'set' command"),
                (("SET", "k", "v", "PX", "-5"), "-ERR invalid expire time in 'set' command"),
                (("SET", "k", "v", "EX", "abc"), NOT_INT),
                (("SET", "k", "v", "EX", "9223372036854775807"), "-ERR invalid expire time in 'set' command"),
                (("GET", "l"), WRONGTYPE),
                (("TOUCH",), "-ERR wrong number of arguments for 'touch' command"),
                (("LINDEX", "l"), "-ERR wrong number of arguments for 'lindex' command"),
                (("LINDEX", "l", "abc"), NOT_INT),
                (("LINDEX", "l", "9223372036854775808"), NOT_INT),
                (("LINDEX", "s", "abc"), WRONGTYPE),
                (("INCR", "l"), WRONGTYPE),
                (("INCR", "s"), NOT_INT),
                (("HGET", "s", "f"), WRONGTYPE),
                (("LPUSH", "s", "x"), WRONGTYPE),
                (("SET", "l", "x", "GET"), WRONGTYPE),
                (("EXPIRE", "s", "abc"), NOT_INT),
                (("EXPIRE", "s", "9223372036854775807"), "-ERR invalid expire time in 'expire' command"),
                (("EXPIRE", "s", "10", "BAD"), "-ERR Unsupported option BAD"),
                (("EXPIRE", "s", "10", "NX", "GT"), "-ERR NX and XX, GT or LT options at the same time are not compatible"),
                (("EXPIRE", "s", "10", "LT", "GT"), "-ERR GT and LT options at the same time are not compatible"),
                (("RPOP", "l", "-1"), "-ERR value is out of range, must be positive"),
                (("BLPOP", "l", "abc"), "-ERR timeout is not a float or out of range"),
                (("BLPOP", "l", "-1"), "-ERR timeout is negative"),
                (("SELECT", "abc"), NOT_INT),
                (("SELECT", "99999"), "-ERR DB index is out of range"),
                (("EXEC",), "-ERR EXEC without MULTI"),
                (("DISCARD",), "-ERR DISCARD without MULTI"),
                (("SCAN", "abc"), "-ERR invalid cursor"),
                (("SCAN", "0", "COUNT", "0"), SYNTAX),
                (("SCAN", "0", "COUNT", "abc"), NOT_INT),
                (("SCAN", "0", "BAD", "1"), SYNTAX),
                (("CONFIG", "NOSUCH"), "-ERR unknown subcommand 'NOSUCH'. Try CONFIG HELP."),
                (("CLIENT", "NOSUCH"), "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
                (("CONFIG", "SET", "no-such-option", "1"),
                 "-ERR Unknown option or number of arguments for CONFIG SET - 'no-such-option'"),
                (("CLIENT", "SETNAME", "two words"), "-ERR Client names cannot contain spaces, newlines or special characters."),
                (("HELLO", "9"), "-NOPROTO unsupported protocol version"),
                (("HELLO", "abc"), "-ERR Protocol version is not an integer or out of range"),
                (("COMMAND", "NOSUCH"), "-ERR unknown subcommand 'NOSUCH'. Try COMMAND HELP."),
                (("FLUSHALL", "BAD"), SYNTAX),
        ):
            same(w.do(*command), reply, " ".join(command))
        same(w.do("PING"), "+PONG")
        same(w.do("GET", "s"), b"text")
        same(w.do("EXISTS", "k"), 0)


@test
def select_of_a_bad_index(t):
    with Wire(t) as w:
        same(w.do("SELECT", "-1"), "-ERR DB index is out of range")
        same(w.do("SELECT", ""), NOT_INT)
        same(w.do("SET", "still", "here"), "+OK")


@test
def expire_options(t):
    with Wire(t) as w:
        w.do("FLUSHALL")
        w.do("SET", "k", "v")
        for command, reply in (
                (("EXPIRE", "k", "100", "XX"), 0),
                (("EXPIRE", "k", "100", "NX"), 1),
                (("EXPIRE", "k", "200", "NX"), 0),
                (("EXPIRE", "k", "50", "GT"), 0),
                (("EXPIRE", "k", "200", "GT"), 1),
                (("EXPIRE", "k", "300", "LT"), 0),
                (("EXPIRE", "k", "100", "LT"), 1),
                (("EXPIRE", "k", "150", "XX"), 1),
        ):
            same(w.do(*command), reply, " ".join(command))
        assert 148 <= w.do("TTL", "k") <= 150


@test
def inline_commands(t):
    with Wire(t) as w:
        w.send("PING\r\n")
        same(w.reply(), "+PONG")
        w.send("ping\n")
        same(w.reply(), "+PONG")
        w.send("SET inline 'a \"quoted\" value'\r\nGET inline\r\n")
        same((w.reply(), w.reply()), ("+OK", b'a "quoted" value'))
        w.send('SET inline "\\x41\\n\\t\\"end"\r\n  GET   inline  \r\n')
        same((w.reply(), w.reply()), ("+OK", b'A\n\t"end'))
        w.send("\r\n\r\nPING\r\n")
        same(w.reply(), "+PONG")
        w.send('SET k "unbalanced\r\n')
        same(w.reply(), "-ERR Protocol error: unbalanced quotes in request")
        same(w.closed(), True)


@test
def protocol_errors_close_the_connection(t):
    for data, reply in (
            (b"*abc\r\n", "-ERR Protocol error: invalid multibulk length"),
            (b"*2147483648\r\n", "-ERR Protocol error: invalid multibulk length"),
            (b"*1\r\n:5\r\n", "-ERR Protocol error: expected '$', got ':'"),
            (b"*1\r\n$abc\r\n", "-ERR Protocol error: invalid bulk length"),
            (b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length"),
            (b"*1\r\n$99999999999\r\n", "-ERR Protocol error: invalid bulk length"),
    ):
        with Wire(t) as w:
            w.send(data)
            same(w.reply(), reply, repr(data))
            same(w.closed(), True)
    with Wire(t) as w:
        same(w.do("PING"), "+PONG")


@test
def inline_request_has_a_limit(t):
    with Wire(t) as w:
        try:
            w.send(b"A" * (70 * 1024))
            same(w.reply(), "-ERR Protocol error: too big inline request")
        except (ConnectionResetError, BrokenPipeError):
            pass
        same(w.closed(), True)


@test
def empty_and_null_multibulk_are_ignored(t):
    with Wire(t) as w:
        w.send(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n")
        same(w.reply(), "+PONG")


@test
def bytes_may_come_one_by_one(t):
    with Wire(t) as w:
        for b in Wire.pack("SET", "slow", "a\r\nb") + Wire.pack("GET", "slow") + b"PING\r\n":
            w.send(bytes([b]))
        same((w.reply(), w.reply(), w.reply()), ("+OK", b"a\r\nb", "+PONG"))


@test
def long_pipeline_in_one_write(t):
    with Wire(t, timeout=30) as w:
        n = 20000
        import threading
        data = b"".join(Wire.pack("SET", "p%d" % (i % 1000), i) + Wire.pack("GET", "p%d" % (i % 1000)) for i in range(n))
        th = threading.Thread(target=w.send, args=(data,))
        th.start()
        for i in range(n):
            same(w.reply(), "+OK")
            same(w.reply(), b"%d" % i)
        th.join()


@test
def transaction_errors(t):
    with Wire(t) as w:
        w.do("FLUSHALL")
        w.do("MULTI")
        same(w.do("MULTI"), "-ERR MULTI calls can not be nested")
        same(w.do("WATCH", "k"), "-ERR WATCH inside MULTI is not allowed")
        same(w.do("SET", "k", "v"), "+QUEUED")
        same(w.do("EXEC"), ["+OK"])
        w.do("MULTI")
        same(w.do("SET", "k", "other"), "+QUEUED")
        same(w.do("NOSUCH"), "-ERR unknown command 'NOSUCH', with args beginning with: ")
        same(w.do("GET"), "-ERR wrong number of arguments for 'get' command")
        same(w.do("EXEC"), "-EXECABORT Transaction discarded because of previous errors.")
        same(w.do("GET", "k"), b"v")
        same(w.do("WATCH", "k"), "+OK")
        with Wire(t) as other:
            other.do("SET", "k", "changed")
        w.do("MULTI")
        w.do("SET", "k", "mine")
        same(w.do("EXEC"), None)
        same(w.do("GET", "k"), b"changed")


@test
def quit_answers_and_closes(t):
    with Wire(t) as w:
        w.send("PING\r\nQUIT\r\nPING\r\n")
        same((w.reply(), w.reply()), ("+PONG", "+OK"))
        same(w.closed(), True)


@test
def hello_and_resp3_types(t):
    with Wire(t) as w:
        w.do("FLUSHALL")
        two = w.do("HELLO")
        same(two[0], b"server")
        three = w.do("HELLO", "3", "SETNAME", "me")
        same(sorted(three), sorted([b"server", b"version", b"proto", b"id", b"mode", b"role", b"modules"]))
        same((three[b"proto"], three[b"server"], three[b"mode"], three[b"role"]), (3, b"redis", b"standalone", b"master"))
        same(w.do("CLIENT", "GETNAME"), b"me")
        w.send(w.pack("GET", "absent"))
        same(w.line(), b"_")
        w.do("HSET", "h", "a", "1")
        w.send(w.pack("HGETALL", "h"))
        same(w.line(), b"%1")
        w.line(), w.line(), w.line(), w.line()
        w.send(w.pack("BLPOP", "absent", "0.01"))
        same(w.line(), b"_")
        w.send(w.pack("SUBSCRIBE", "c"))
        same(w.line(), b">3")
        for _ in range(5):
            w.line()
        # In RESP3 a subscribed connection goes on taking commands.
        same(w.do("PING"), "+PONG")
        same(w.do("HELLO", "2")[0], b"server")
        w.send(w.pack("UNSUBSCRIBE", "c"))
        same(w.line(), b"*3")


@test
def subscribed_resp2_takes_only_pubsub_commands(t):
    with Wire(t) as w, Wire(t) as other:
        same(w.do("SUBSCRIBE", "a", "b"), [b"subscribe", b"a", 1])
        same(w.reply(), [b"subscribe", b"b", 2])
        contains(w.do("GET", "k"), "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
                                   "allowed in this context")
        same(w.do("PING"), [b"pong", b""])
        same(w.do("PING", "x"), [b"pong", b"x"])
        same(other.do("PUBLISH", "a", "m"), 1)
        same(w.reply(), [b"message", b"a", b"m"])
        same(w.do("UNSUBSCRIBE", "never"), [b"unsubscribe", b"never", 2])
        same(sorted([w.do("UNSUBSCRIBE")[2], w.reply()[2]]), [0, 1])
        same(w.do("UNSUBSCRIBE"), [b"unsubscribe", None, 0])
        same(w.do("PING"), "+PONG")


@test
def shard_channels_and_cluster_commands_without_a_cluster(t):
    with Wire(t) as w, Wire(t) as other:
        same(w.do("SSUBSCRIBE", "sc", "another"), [b"ssubscribe", b"sc", 1])
        same(w.reply(), [b"ssubscribe", b"another", 2])
        same(other.do("SPUBLISH", "sc", "hello"), 1)
        same(w.reply(), [b"smessage", b"sc", b"hello"])
        same(other.do("PUBLISH", "sc", "not for it"), 0)
        same(other.do("PUBSUB", "SHARDCHANNELS", "s*"), [b"sc"])
        same(other.do("PUBSUB", "SHARDNUMSUB", "sc", "none"), [b"sc", 1, b"none", 0])
        same(other.do("PUBSUB", "CHANNELS"), [])
        same(w.do("SUNSUBSCRIBE", "sc"), [b"sunsubscribe", b"sc", 1])
        same(w.do("SUNSUBSCRIBE"), [b"sunsubscribe", b"another", 0])
        same(w.do("SUNSUBSCRIBE"), [b"sunsubscribe", None, 0])
        same(w.do("PING"), "+PONG")
        same(w.do("COMMAND", "INFO", "ssubscribe")[0][3:6], [1, -1, 1])
        for command in (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("CLUSTER", "KEYSLOT", "x"), ("READONLY",), ("READWRITE",), ("ASKING",)):
            same(w.do(*command), "-ERR This instance has cluster support disabled")


@test
def command_docs_and_info(t):
    with Wire(t) as w:
        docs = w.do("COMMAND", "DOCS", "get", "nosuch")
        same(docs[0], b"get")
        entry = dict(zip(docs[1][::2], docs[1][1::2]))
        for field in (b"summary", b"since", b"group"):
            assert field in entry, field
        same(entry[b"group"], b"string")
        same(len(docs), 2)
        info = w.do("COMMAND", "INFO", "get", "nosuch")
        same(info[0][:2], [b"get", 2])
        assert "+readonly" in info[0][2] and "+fast" in info[0][2], info[0][2]
        same(info[0][3:6], [1, 1, 1])
        same(info[1], None)
        count = w.do("COMMAND", "COUNT")
        same(len(w.do("COMMAND")), count)


@test
def client_setinfo(t):
    with Wire(t) as w:
        if version(w) < (7, 2):
            raise Skip("CLIENT SETINFO came with Redis 7.2")
        same(w.do("CLIENT", "SETINFO", "LIB-NAME", "wire"), "+OK")
        same(w.do("CLIENT", "SETINFO", "LIB-VER", "1.2"), "+OK")
        contains(w.do("CLIENT", "LIST").decode(), "lib-name=wire lib-ver=1.2")
        same(w.do("CLIENT", "SETINFO", "lib-name", "two words"),
             "-ERR lib-name cannot contain spaces, newlines or special characters.")
        same(w.do("CLIENT", "SETINFO", "nosuch", "x"), "-ERR Unrecognized option 'nosuch'")


@test
def client_list_drops_who_left(t):
    with Wire(t) as w:
        other = Wire(t)
        same(other.do("CLIENT", "SETNAME", "leaves"), "+OK")
        contains(w.do("CLIENT", "LIST").decode(), "name=leaves")
        other.close()
        until("it is gone", lambda: b"name=leaves" not in w.do("CLIENT", "LIST"))


@test
def blocked_client_that_leaves_takes_nothing(t):
    with Wire(t) as w:
        w.do("FLUSHALL")
        gone = Wire(t)
        gone.do("CLIENT", "SETNAME", "blocked")
        gone.send(gone.pack("BLPOP", "list", "0"))
        until("it blocks", lambda: b"cmd=blpop" in w.do("CLIENT", "LIST"))
        gone.close()
        until("it is gone", lambda: b"name=blocked" not in w.do("CLIENT", "LIST"))
        same(w.do("LPUSH", "list", "kept"), 1)
        same(w.do("RPOP", "list"), b"kept")


@test
def commands_behind_a_blocked_one_wait(t):
    with Wire(t) as w, Wire(t) as other:
        w.do("FLUSHALL")
        w.send(w.pack("BLPOP", "list", "0") + w.pack("ECHO", "after"))
        until("it blocks", lambda: b"cmd=blpop" in other.do("CLIENT", "LIST"))
        w.sock.settimeout(0.2)
        try:
            early = w.sock.recv(1)
            raise AssertionError("answered too early: %r" % early)
        except (socket.timeout, TimeoutError):
            pass
        w.sock.settimeout(10)
        w.file = w.sock.makefile("rb")
        other.do("LPUSH", "list", "x")
        same(w.reply(), [b"list", b"x"])
        same(w.reply(), b"after")


@test
def many_connections(t):
    wires = [Wire(t) for _ in range(500)]
    for i, w in enumerate(wires):
        w.send(w.pack("SET", "conn:%d" % i, i))
    for w in wires:
        same(w.reply(), "+OK")
    for i, w in enumerate(wires):
        w.send(w.pack("GET", "conn:%d" % i))
    for i, w in enumerate(wires):
        same(w.reply(), b"%d" % i)
        w.close()


@test
def a_client_that_never_reads_does_not_stop_others(t):
    with Wire(t) as w, Wire(t) as lazy:
        w.do("SET", "big", b"x" * 100000)
        lazy.sock.setblocking(False)
        request = Wire.pack("GET", "big") * 50
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                lazy.sock.send(request)
            except (BlockingIOError, ConnectionResetError, BrokenPipeError):
                break
        for i in range(200):
            same(w.do("PING"), "+PONG")


if __name__ == "__main__":
    main()
