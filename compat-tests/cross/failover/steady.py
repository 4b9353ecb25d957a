"""What every Python client of a trial does (trial.py beside it says what a client is)."""
import sys
import threading
import time

over = threading.Event()
addresses = [(a.rsplit(":", 1)[0], int(a.rsplit(":", 1)[1])) for a in sys.argv[1].split(",")]
name, lanes = sys.argv[2], sys.argv[3].split(",")
_lock = threading.Lock()


def say(word, text):
    with _lock:
        print(word, str(text).replace("\n", " "), flush=True)


def error(e):
    say("error", "%s: %s" % (type(e).__name__, e))


def _wait_for_end():
    sys.stdin.read()
    over.set()


threading.Thread(target=_wait_for_end, daemon=True).start()


def run(write, read):
    """write(n) returns when n is acknowledged; read(count) gives the numbers below count that it finds."""
    n = 0
    while not over.is_set():
        try:
            write(n)
            say("acked", n)
        except Exception as e:
            error(e)
            time.sleep(0.01)
        n += 1
        time.sleep(0.001)
    for tries in range(5):
        try:
            for found in read(n):
                say("read", found)
            return
        except Exception as e:
            error(e)
            time.sleep(1)
    sys.exit("cannot read back")
