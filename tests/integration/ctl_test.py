"""gomsgctl: every verb, its tables and JSON, its exit codes; the manual pages name what the tables hold."""
import json
import os
import re
import subprocess

from node import BUILD, Node, run_tests
from wire import Amqp, AmqpClosed, Kafka, Resp, batch

GOMSGCTL = os.path.join(BUILD, "gomsgctl")
TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def ctl(node, *args, code=0):
    r = subprocess.run([GOMSGCTL, "-d", node.data] + list(args), capture_output=True, text=True)
    assert r.returncode == code, (args, r)
    return r.stdout if code == 0 else r.stderr


def every_verb_answers():
    with Node() as node:
        node.start()
        Resp(node.ports["resp"]).call("SET", "k", "v")
        k = Kafka(node.ports["kafka"])
        k.create_topic("orders", 3)
        k.produce("orders", 1, batch([b"a", b"b"]))
        a = Amqp(node.ports["amqp"])
        a.declare("work")
        a.confirm_select()
        a.publish("work", b"m")
        a.confirmed()
        status = json.loads(ctl(node, "--json", "status"))
        assert status["state"] == "ready" and status["keys"] == 1 and status["topics"] == 1 and status["queues"] == 1, status
        assert "127.0.0.1:%d" % node.ports["resp"] in ctl(node, "status")
        rows = json.loads(ctl(node, "partitions", "--json"))
        assert len(rows) == 32 and sum(r["keys"] for r in rows) == 1 and all(r["state"] == "open" for r in rows)
        topics = json.loads(ctl(node, "topics", "--json"))
        assert topics[0]["name"] == "orders" and topics[0]["partitions"] == 3 and topics[0]["records"] == 2, topics
        queues = json.loads(ctl(node, "queues", "--json"))
        assert queues[0]["name"] == "work" and queues[0]["ready"] == 1 and queues[0]["flags"] == "D", queues
        text = ctl(node, "queues")
        assert text.startswith("VHOST") and "work" in text
        assert "VHOST" not in ctl(node, "queues", "--no-header")
        protocols = {c["protocol"] for c in json.loads(ctl(node, "connections", "--json"))}
        assert {"amqp", "kafka"} <= protocols, protocols
        assert "gomsgd" in ctl(node, "version")
        ctl(node, "snapshot")
        via_port = subprocess.run([GOMSGCTL, "-s", "127.0.0.1:%d" % node.ports["resp"], "status"], capture_output=True, text=True)
        assert via_port.returncode == 0 and "ready" in via_port.stdout


def settings_users_and_vhosts_change():
    with Node() as node:
        node.start()
        assert "always" not in ctl(node, "config", "get", "kafka.num_partitions")
        ctl(node, "config", "set", "kafka.num_partitions", "9")
        assert json.loads(ctl(node, "--json", "config", "get", "kafka.num_partitions"))[0]["value"] == "9"
        assert "restart" in ctl(node, "config", "set", "node.threads", "9", code=1)
        assert "no option matches" in ctl(node, "config", "get", "nothing.like.it", code=1)
        ctl(node, "vhost", "add", "team")
        ctl(node, "vhost", "add", "team", code=1)
        assert {v["name"] for v in json.loads(ctl(node, "--json", "vhost", "list"))} == {"/", "team"}
        Amqp(node.ports["amqp"], vhost="team").declare("q")
        ctl(node, "user", "add", "ada", "secret", "monitoring")
        Amqp(node.ports["amqp"], user="ada", password="secret")
        try:
            Amqp(node.ports["amqp"], user="ada", password="wrong")
            raise AssertionError("a wrong password was accepted")
        except (AmqpClosed, EOFError, ConnectionResetError):
            pass
        users = {u["name"]: u for u in json.loads(ctl(node, "--json", "user", "list"))}
        assert users["ada"]["tags"] == "monitoring" and users["ada"]["vhosts"] == ["/"], users
        ctl(node, "user", "delete", "ada")
        ctl(node, "user", "delete", "ada", code=1)
        ctl(node, "vhost", "delete", "team")
        assert "no such virtual host" in ctl(node, "queues", "team", code=1)
        node.kill()
        node.start()
        assert {u["name"] for u in json.loads(ctl(node, "--json", "user", "list"))} == {"guest"}


def exit_codes():
    with Node() as node:
        node.start()
        ctl(node, "nonsense", code=2)
        ctl(node, "user", "add", "only-a-name", code=2)
        data = node.data
    r = subprocess.run([GOMSGCTL, "-d", data, "status"], capture_output=True, text=True)
    assert r.returncode == 3 and "cannot reach" in r.stderr, r


def log_dump_reads_and_verifies():
    import glob
    with Node() as node:
        node.start()
        Resp(node.ports["resp"]).call("SET", "somekey", "somevalue")
        node.stop()
        path = glob.glob(os.path.join(node.data, "p-*/main/*.log"))[0]
        r = subprocess.run([GOMSGCTL, "log", "dump", path], capture_output=True, text=True)
        assert r.returncode == 0 and "KV_STRING_SET" in r.stdout and "somekey" in r.stdout, r
        r = subprocess.run([GOMSGCTL, "log", "dump", "--verify", path], capture_output=True, text=True)
        assert r.returncode == 0, r
        with open(path, "r+b") as f:
            f.seek(70)
            f.write(b"\xff\xff")
        r = subprocess.run([GOMSGCTL, "log", "dump", "--verify", path], capture_output=True, text=True)
        assert r.returncode == 1, r


def manuals_hold_what_the_tables_hold():
    with open(os.path.join(TOP, "man", "gomsgctl.1")) as f:
        page = re.sub(r"\s+", " ", f.read())
    with open(os.path.join(TOP, "src", "ctl", "verbs.def")) as f:
        verbs = re.findall(r'^X\("([^"]+)"', f.read(), re.M)
    assert len(verbs) > 10
    for v in verbs:
        assert ".It Cm " + v in page, "gomsgctl(1) does not name: " + v
    with open(os.path.join(TOP, "man", "gomsg.yaml.5")) as f:
        page = f.read()
    with open(os.path.join(TOP, "src", "config", "options.def")) as f:
        options = re.findall(r"^OPTION\((\w+), (\w+),", f.read(), re.M)
    for section, name in options:
        assert "%s.%s" % (section, name) in page, "gomsg.yaml(5) does not name: %s.%s" % (section, name)


def manuals_are_clean():
    for page in ("gomsgd.8", "gomsgctl.1", "gomsg.yaml.5"):
        r = subprocess.run(["mandoc", "-T", "lint", os.path.join(TOP, "man", page)], capture_output=True, text=True)
        lines = [l for l in r.stdout.splitlines() + r.stderr.splitlines()
                 if "referenced manual not found" not in l and "outdated mandoc.db" not in l]
        assert not lines, lines


if __name__ == "__main__":
    run_tests([every_verb_answers, settings_users_and_vhosts_change, exit_codes, log_dump_reads_and_verifies, manuals_hold_what_the_tables_hold,
               manuals_are_clean])
