"""amqp-tools (rabbitmq-c's programs), unchanged, against the server."""
import subprocess
import tempfile

from compat import command, main, same, test, unique


def tool(t, name, *args, stdin=None, check=True):
    return command([name, "--url", "amqp://guest:guest@%s:%d" % (t.host, t.port)] + list(args), stdin=stdin, check=check)


@test
def declare_publish_get_delete(t):
    q = unique("tool")
    same(tool(t, "amqp-declare-queue", "-q", q, "-d"), q.encode() + b"\n")
    tool(t, "amqp-publish", "-r", q, "-p", "-C", "text/plain", "-b", "hello")
    tool(t, "amqp-publish", "-r", q, stdin="from stdin")
    same(tool(t, "amqp-get", "-q", q), b"hello")
    same(tool(t, "amqp-get", "-q", q), b"from stdin")
    same(tool(t, "amqp-get", "-q", q, check=False).returncode, 2)
    tool(t, "amqp-publish", "-r", q, "-b", "left")
    same(tool(t, "amqp-delete-queue", "-q", q), b"1\n")


@test
def publish_lines(t):
    q = unique("tool")
    tool(t, "amqp-declare-queue", "-q", q)
    tool(t, "amqp-publish", "-r", q, "-l", stdin="one\ntwo\nthree\n")
    same([tool(t, "amqp-get", "-q", q) for _ in range(3)], [b"one\n", b"two\n", b"three\n"])
    tool(t, "amqp-delete-queue", "-q", q)


@test
def consume_runs_a_program(t):
    q = unique("tool")
    tool(t, "amqp-declare-queue", "-q", q, "-d")
    for i in range(5):
        tool(t, "amqp-publish", "-r", q, "-b", "m%d;" % i)
    out = tool(t, "amqp-consume", "-q", q, "-c", "5", "cat")
    same(out, b"m0;m1;m2;m3;m4;")
    same(tool(t, "amqp-get", "-q", q, check=False).returncode, 2)
    tool(t, "amqp-delete-queue", "-q", q)


@test
def consume_from_an_exchange(t):
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(["amqp-consume", "--url", "amqp://guest:guest@%s:%d" % (t.host, t.port), "-e", "amq.fanout", "-r",
                                    "any", "-c", "1", "-A", "cat"], stdout=out, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                tool(t, "amqp-publish", "-e", "amq.fanout", "-r", "any", "-b", "fanned")
                try:
                    process.wait(0.05)
                    break
                except subprocess.TimeoutExpired:
                    continue
            same(process.wait(10), 0)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        same(out.read(), b"fanned")


@test
def errors_are_told(t):
    done = tool(t, "amqp-get", "-q", unique("absent"), check=False)
    same(done.returncode, 1)
    assert b"404" in done.stderr and b"NOT_FOUND - no queue" in done.stderr, done.stderr
    done = command(["amqp-get", "--url", "amqp://guest:wrong@%s:%d" % (t.host, t.port), "-q", "x"], check=False)
    assert done.returncode != 0 and b"ACCESS_REFUSED" in done.stderr, done.stderr


if __name__ == "__main__":
    main()
