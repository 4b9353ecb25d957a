"""redis-cli and redis-benchmark, unchanged, against the server."""
import os
import subprocess
import tempfile
import time

from compat import Wire, command, contains, main, same, test


def cli(t, *args, stdin=None, check=True):
    return command(["redis-cli", "-h", t.host, "-p", str(t.port)] + list(args), stdin=stdin, check=check)


@test
def one_command_a_call(t):
    cli(t, "FLUSHALL")
    same(cli(t, "PING"), b"PONG\n")
    same(cli(t, "SET", "k", "hello world"), b"OK\n")
    same(cli(t, "GET", "k"), b"hello world\n")
    same(cli(t, "GET", "absent"), b"\n")
    same(cli(t, "-n", "3", "GET", "k"), b"\n")
    same(cli(t, "--no-raw", "GET", "k"), b'"hello world"\n')
    same(cli(t, "--no-raw", "DBSIZE"), b"(integer) 1\n")


@test
def value_from_stdin(t):
    same(cli(t, "-x", "SET", "stdin", stdin="from stdin"), b"OK\n")
    same(cli(t, "GET", "stdin"), b"from stdin\n")


@test
def script_of_commands(t):
    out = cli(t, stdin="FLUSHALL\nSET a 1\nINCR a\nGET a\nHSET h f v\nHGETALL h\n")
    same(out, b"OK\nOK\n2\n2\n1\nf\nv\n")


@test
def transaction_prompt(t):
    out = cli(t, "--no-raw", stdin="MULTI\nSET tx 1\nINCR tx\nEXEC\n")
    same(out, b"OK\nQUEUED\nQUEUED\n1) OK\n2) (integer) 2\n")


@test
def resp3_output(t):
    cli(t, "FLUSHALL")
    cli(t, "HSET", "h", "f", "v")
    same(cli(t, "-3", "--no-raw", "HGETALL", "h"), b'1# "f" => "v"\n')


@test
def errors_are_shown(t):
    cli(t, "SET", "s", "x")
    same(cli(t, "INCR", "s"), b"ERR value is not an integer or out of range\n\n")
    done = cli(t, "-e", "INCR", "s", check=False)
    same(done.returncode, 1)


@test
def scan_option(t):
    cli(t, "FLUSHALL")
    cli(t, "MSET", "scan:0", "1", "scan:1", "1", "scan:2", "1", "other", "1")
    same(sorted(cli(t, "--scan", "--pattern", "scan:*").split()), [b"scan:0", b"scan:1", b"scan:2"])


@test
def mass_insertion_by_pipe(t):
    cli(t, "FLUSHALL")
    data = b"".join(Wire.pack("SET", "pipe:%d" % i, i) for i in range(10000))
    out = command(["redis-cli", "-h", t.host, "-p", str(t.port), "--pipe"], stdin=data)
    contains(out.decode(), "errors: 0, replies: 10000")
    same(cli(t, "DBSIZE"), b"10000\n")


@test
def subscribe_prints_messages(t):
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(["redis-cli", "-h", t.host, "-p", str(t.port), "SUBSCRIBE", "cli-channel"], stdout=out)
        try:
            end = time.monotonic() + 10
            while cli(t, "PUBLISH", "cli-channel", "news") != b"1\n":
                assert time.monotonic() < end, "nobody subscribed"
                time.sleep(0.02)
            while True:
                out.seek(0)
                got = out.read()
                if b"news" in got:
                    break
                assert time.monotonic() < end, got
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    same(got.split(), b"subscribe cli-channel 1 message cli-channel news".split())


@test
def benchmark_program_runs(t):
    out = command(["redis-benchmark", "-h", t.host, "-p", str(t.port), "-n", "2000", "-q", "-t", "ping,set,get,incr,lpush,rpop,"
                   "hset,mset", "-c", "10"], timeout=60).decode()
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPOP", "HSET", "MSET"):
        contains(out, name)
    assert "rror" not in out, out


@test
def latency_mode(t):
    out = command(["timeout", "10", "redis-cli", "-h", t.host, "-p", str(t.port), "--latency", "-i", "1", "--raw"],
                  check=False)
    words = out.stdout.split()
    assert len(words) >= 3, out


if __name__ == "__main__":
    os.environ["TERM"] = "dumb"
    os.environ["NO_COLOR"] = "1"
    main()
