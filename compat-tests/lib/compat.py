"""The frame of the Python compatibility tests.

A test is a function marked with @test; it takes one argument, the target (host, port, real) and fails by raising.
A program of tests ends with main(), which runs them one after another, each with a time limit, and prints one line a
test: `ok NAME`, `not ok NAME` (with the reason below it, indented) or `skip NAME - why`. The exit code is 1 if one failed.
"""
import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import traceback

TESTS = []
LIMIT_S = 60


class Skip(Exception):
    """Raised by a test that says why it cannot run against this server."""


class Target:
    def __init__(self, host, port, real):
        self.host = host
        self.port = port
        self.real = real


def test(func):
    """Marks a test of the program that is run; the tests of a module it only imports are not its own."""
    if func.__module__ == "__main__":
        TESTS.append(func)
    return func


def same(got, want, what=""):
    if got != want:
        raise AssertionError("%sgot %r, expected %r" % (what + ": " if what else "", got, want))


def contains(text, part):
    if part not in text:
        raise AssertionError("%r does not contain %r" % (text, part))


def raises(kind, text, func, *args, **kw):
    """func must raise `kind`; its words must equal `text` (None: any)."""
    try:
        got = func(*args, **kw)
    except kind as exc:
        if text is not None:
            same(str(exc), text)
        return exc
    raise AssertionError("no %s raised, got %r" % (kind.__name__, got))


def until(what, func, limit_s=30.0):
    """Waits until func() is true; `what` names it in the failure."""
    end = time.monotonic() + limit_s
    while True:
        got = func()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError("not within %g s: %s" % (limit_s, what))
        time.sleep(0.01)


def command(argv, stdin=None, timeout=90, check=True):
    """Runs a program and returns what it wrote to stdout (bytes)."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError("%s: exit %d: %s%s" % (" ".join(argv), done.returncode, done.stdout.decode(errors="replace")[-400:],
                                                    done.stderr.decode(errors="replace")[-800:]))
    return done.stdout if check else done


_names = 0


def unique(prefix):
    """A name nobody used before, so that tests can share a server that keeps what it is given."""
    global _names
    _names += 1
    return "%s-%d-%d-%d" % (prefix, os.getpid(), int(time.time()) % 100000, _names)


class Wire:
    """A raw RESP connection, for what client libraries hide: exact bytes, inline commands, error texts."""

    def __init__(self, target, timeout=30):
        self.sock = socket.create_connection((target.host, target.port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    @staticmethod
    def pack(*args):
        out = b"*%d\r\n" % len(args)
        for a in args:
            a = a if isinstance(a, bytes) else str(a).encode()
            out += b"$%d\r\n%s\r\n" % (len(a), a)
        return out

    def line(self):
        raw = self.file.readline()
        if not raw.endswith(b"\r\n"):
            raise EOFError("connection closed")
        return raw[:-2]

    def reply(self):
        """One reply as bytes of its own: (type, value); errors and status come as strings with their sign."""
        head = self.line()
        kind, rest = head[:1], head[1:]
        if kind in b"+-":
            return head.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$" or kind == b"=":
            if rest == b"-1":
                return None
            data = self.file.read(int(rest) + 2)
            return data[:-2]
        if kind == b"_":
            return None
        if kind == b"#":
            return rest == b"t"
        if kind == b",":
            return float(rest)
        if kind == b"(":
            return int(rest)
        if kind in b"*~>":
            if rest == b"-1":
                return None
            return [self.reply() for _ in range(int(rest))]
        if kind == b"%":
            return {self.reply(): self.reply() for _ in range(int(rest))}
        raise AssertionError("unknown reply type %r" % head)

    def do(self, *args):
        self.send(self.pack(*args))
        return self.reply()

    def closed(self):
        """True once the server has closed this connection."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


def _alarm(_sig, _frame):
    raise TimeoutError("test took longer than %d s" % LIMIT_S)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--real", action="store_true", help="the server is the real one")
    parser.add_argument("-k", default="", help="only tests whose name contains this")
    args = parser.parse_args()
    target = Target(args.host, args.port, args.real)
    suite = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    family = os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0])))
    signal.signal(signal.SIGALRM, _alarm)
    failed = 0
    for func in TESTS:
        name = "%s/%s/%s" % (family, suite, func.__name__)
        if args.k not in name:
            continue
        try:
            signal.alarm(LIMIT_S)
            func(target)
            signal.alarm(0)
            print("ok %s" % name, flush=True)
        except Skip as why:
            signal.alarm(0)
            print("skip %s - %s" % (name, why), flush=True)
        except (Exception, KeyboardInterrupt) as exc:  # pylint: disable=broad-except
            signal.alarm(0)
            failed += 1
            print("not ok %s" % name)
            where = traceback.extract_tb(exc.__traceback__)
            for frame in where[1:3]:
                print("    %s:%d: %s" % (os.path.basename(frame.filename), frame.lineno, frame.line))
            print("    %s: %s" % (type(exc).__name__, str(exc)[:1500]), flush=True)
    sys.exit(1 if failed else 0)
