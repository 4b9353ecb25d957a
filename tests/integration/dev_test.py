"""gomsgctl dev: a cluster on this machine comes up, is broken and mended, and goes; gomsgctl doctor sees what is wrong with it."""
import json
import os
import shutil
import subprocess
import tempfile

from node import BUILD, PATIENCE, eventually, run_tests, sanitizer_report

GOMSGCTL = os.path.join(BUILD, "gomsgctl")


class Dev:
    def __init__(self):
        self.dir = os.path.join(tempfile.mkdtemp(prefix="gomsg-dev-"), "cluster")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            for path in self.diags():
                print("---- %s\n%s" % (path, "".join(open(path).readlines()[-10:])))
        subprocess.run([GOMSGCTL, "dev", "down", "--delete", "--dir", self.dir], timeout=60 * PATIENCE, capture_output=True)
        shutil.rmtree(os.path.dirname(self.dir), ignore_errors=True)

    def diags(self):
        return [p for p in (os.path.join(self.dir, "n%d" % n, "gomsgd.log") for n in (1, 2, 3)) if os.path.exists(p)]

    def check_diags(self):
        """No sanitizer has anything to say; while the directory is still there."""
        assert len(self.diags()) == 3
        for path in self.diags():
            with open(path, errors="replace") as f:
                report = sanitizer_report(f.read())
            assert report is None, report

    def run(self, *args, code=0):
        r = subprocess.run([GOMSGCTL, "--json", "dev"] + [str(a) for a in args] + ["--dir", self.dir], capture_output=True, text=True,
                           timeout=90 * PATIENCE)
        assert r.returncode == code, (args, r)
        return r.stdout if code == 0 else r.stderr

    def states(self):
        return [row["state"] for row in json.loads(self.run("status"))]

    def ctl(self, node, *args):
        r = subprocess.run([GOMSGCTL, "-d", os.path.join(self.dir, "n%d" % node, "data"), "--json"] + list(args), capture_output=True, text=True,
                           timeout=60 * PATIENCE)
        if not r.stdout:
            raise OSError(r.stderr)
        answer = json.loads(r.stdout)
        assert r.returncode == (0 if args != ("cluster", "health") or answer["healthy"] else 1), r
        return answer

    def healthy(self, node=1):
        return self.ctl(node, "cluster", "health")["healthy"]


def a_cluster_comes_up_is_broken_and_mended():
    with Dev() as dev:
        assert "dev up makes one" in dev.run("status", code=1)
        rows = json.loads(dev.run("up", "-n", 3, "--base-port", "auto"))
        assert [r["node"] for r in rows] == [1, 2, 3] and all(r["state"] == "running" for r in rows), rows
        eventually(dev.healthy, timeout=20)
        redis = rows[0]["resp"].rsplit(":", 1)[1]
        r = subprocess.run(["redis-cli", "-c", "-p", redis, "SET", "k", "v"], capture_output=True, text=True, timeout=20 * PATIENCE)
        assert r.stdout.strip() == "OK", r
        dev.run("kill", 2)
        eventually(lambda: dev.states() == ["running", "stopped", "running"])
        eventually(lambda: not dev.healthy(), timeout=20)
        findings = dev.ctl(1, "doctor")
        assert any(f["check"] == "peers" and f["level"] == "bad" for f in findings), findings
        assert any(f["check"] == "partitions" and f["level"] == "warn" for f in findings), findings
        dev.run("start", 2)
        eventually(dev.healthy, timeout=30)
        # connections and clocks are heard of with the first heartbeats after the start
        eventually(lambda: not any(f["check"] in ("peers", "partitions", "addresses", "clocks") and f["level"] != "ok" for f in dev.ctl(1, "doctor")),
                   timeout=30, every=0.2)
        dev.run("pause", 3)
        eventually(lambda: dev.states() == ["running", "running", "paused"])
        dev.run("resume", 3)
        eventually(lambda: dev.states() == ["running"] * 3)
        assert "nodes are 1 to 3" in dev.run("kill", 9, code=2)
        assert "has a cluster of 3 nodes" in dev.run("up", "-n", 2, code=1)
        dev.run("down")
        assert dev.states() == ["stopped"] * 3
        dev.run("up")
        r = subprocess.run(["redis-cli", "-c", "-p", redis, "GET", "k"], capture_output=True, text=True, timeout=20 * PATIENCE)
        assert r.stdout.strip() == "v", r
        dev.run("down")
        dev.check_diags()
        dev.run("down", "--delete")
        assert not os.path.exists(dev.dir)


if __name__ == "__main__":
    run_tests([a_cluster_comes_up_is_broken_and_mended])
