"""A network of our own in which nodes can be cut off: a bridge, and for each node a namespace joined to it by a veth pair.

    10.99.X.254  the bridge, where the clients of the test live; they reach every node
    10.99.X.N    node N in the namespace gmf<tag>n<N>

Cuts are iptables rules inside the nodes' namespaces: they separate nodes from each other and leave the clients' way alone, unless the link itself is taken down.
Needs root, iproute2, nsenter and iptables; probe() says what is missing. Everything bears a tag in its name and is held by a lock file with that tag, so that the
next run can remove what a killed one left behind and never touches what a living one uses.
"""
import contextlib
import fcntl
import glob
import os
import signal
import subprocess
import tempfile
import time

PREFIX = "gmf"
LOCKS = os.path.join(tempfile.gettempdir(), "gomsg-fault-%s.lock")


class NetError(Exception):
    pass


def sh(*argv, check=True):
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and r.returncode != 0:
        raise NetError("%s: %s" % (" ".join(argv), r.stdout.strip()))
    return r


def probe():
    """What this machine lacks for namespaces, in words; None when all is there. Tries it rather than believing names and versions."""
    if os.geteuid() != 0:
        return "not root"
    for tool in ("ip", "nsenter", "iptables"):
        if sh("sh", "-c", "command -v " + tool, check=False).returncode != 0:
            return "no %s" % tool
    name = "%sprobe%d" % (PREFIX, os.getpid())
    veth = "gp%d" % (os.getpid() % 1000000)
    try:
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "add", veth + "b", "type", "bridge")
        sh("ip", "link", "set", veth, "master", veth + "b")
        into = ("nsenter", "--net=/run/netns/" + name)
        sh(*into, "iptables", "-w", "-A", "INPUT", "-s", "10.99.0.1", "-j", "DROP")
        sh(*into, "iptables", "-w", "-A", "OUTPUT", "-p", "tcp", "-d", "10.99.0.1", "-j", "REJECT", "--reject-with", "tcp-reset")
        return None
    except (NetError, OSError) as e:
        return str(e)
    finally:
        for argv in (("ip", "netns", "del", name), ("ip", "link", "del", veth), ("ip", "link", "del", veth + "b")):
            with contextlib.suppress(OSError):
                sh(*argv, check=False)


# What a kernel says that was built without network namespaces, bridges, veth or netfilter, or a sandbox that does not grant root the capability.
KERNEL_LACKS = ("Unknown device type", "not supported", "Operation not permitted", "Permission denied", "No such device", "Could not fetch rule set",
                "can't initialize iptables table", "No chain/target/match", "nf_tables")


def kernel_lacks(why):
    """True when what probe() said shows that the kernel (or the sandbox around it) cannot do it, so that no installation of tools would help."""
    return why is not None and any(text in why for text in KERNEL_LACKS)


def _remove(tag):
    """Ends what still runs in the namespaces of a tag and removes them and the bridge."""
    names = [n.split()[0] for n in sh("ip", "netns", "list", check=False).stdout.splitlines() if n.startswith("%s%sn" % (PREFIX, tag))]
    for name in names:
        for pid in sh("ip", "netns", "pids", name, check=False).stdout.split():
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
    for name in names:
        sh("ip", "netns", "del", name, check=False)
    sh("ip", "link", "del", "%s%sbr" % (PREFIX, tag), check=False)
    # A namespace lives on until its last process has ended; its outer end of the veth pair with it.
    for line in sh("ip", "-o", "link", "show", "type", "veth", check=False).stdout.splitlines():
        link = line.split(": ")[1].split("@")[0]
        if link.startswith("%s%sv" % (PREFIX, tag)):
            sh("ip", "link", "del", link, check=False)


def remove_stale():
    """Removes what runs that no longer live left behind: their lock files can be locked. Returns their tags."""
    gone = []
    for path in glob.glob(LOCKS % "*"):
        tag = path[len(LOCKS.split("%s")[0]):-len(".lock")]
        with open(path) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # alive
            _remove(tag)
            with contextlib.suppress(OSError):
                os.unlink(path)
            gone.append(tag)
    return gone


class Network:
    """N nodes, numbered from 1. Use as a context manager; stop the processes inside before it ends."""

    def __init__(self, count):
        remove_stale()
        self.count, self.tag, self.subnet = count, None, None
        used = sh("ip", "-o", "-4", "addr").stdout
        for x in range(1, 250):
            if "10.99.%d." % x in used:
                continue
            path = LOCKS % x
            self.lock = open(path, "w")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.lock.close()
                continue
            self.tag, self.subnet, self.lock_path = str(x), "10.99.%d" % x, path
            break
        if self.tag is None:
            raise NetError("no free subnet in 10.99.0.0/16")
        self.lock.write("%d\n" % os.getpid())
        self.lock.flush()
        self.bridge = "%s%sbr" % (PREFIX, self.tag)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self):
        sh("ip", "link", "add", self.bridge, "type", "bridge")
        sh("ip", "addr", "add", self.subnet + ".254/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        for i in range(1, self.count + 1):
            self.add(i)
        self.count_seen = self.count
        deadline = time.monotonic() + 10
        for i in range(1, self.count + 1):  # ARP and the bridge need a moment
            while sh("nsenter", "--net=/run/netns/" + self.name(i), "ip", "route", "get", self.subnet + ".254", check=False).returncode != 0:
                if time.monotonic() > deadline:
                    raise NetError("node %d has no way to the bridge" % i)
                time.sleep(0.05)

    def add(self, i):
        name, veth = self.name(i), self.veth(i)
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", veth, "master", self.bridge, "up")
        sh("ip", "-n", name, "addr", "add", "%s/24" % self.address(i), "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        sh("ip", "-n", name, "link", "set", "lo", "up")

    def name(self, i):
        return "%s%sn%d" % (PREFIX, self.tag, i)

    def veth(self, i):
        return "%s%sv%d" % (PREFIX, self.tag, i)

    def address(self, i):
        return "%s.%d" % (self.subnet, i)

    def inside(self, i):
        """The words in front of a command that run it in node i's namespace; it keeps its process id."""
        return ["nsenter", "--net=/run/netns/" + self.name(i)]

    # ---- cuts -------------------------------------------------------------------------------------------------------------
    def _rules(self, i, *rules):
        """Adds rules to node i's tables, all at once."""
        text = "*filter\n" + "".join("-A %s\n" % r for r in rules) + "COMMIT\n"
        r = subprocess.run(self.inside(i) + ["iptables-restore", "-w", "--noflush"], input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if r.returncode != 0:
            raise NetError("iptables in %s: %s" % (self.name(i), r.stdout))

    def cut(self, a, b, reject=False):
        """Nothing passes between a and b. With reject each one's sending is answered by a reset, as a firewall does, instead of silence."""
        for x, y in ((a, b), (b, a)):
            if reject:
                self._rules(x, "OUTPUT -d %s -p tcp -j REJECT --reject-with tcp-reset" % self.address(y))
            else:
                self._rules(x, "INPUT -s %s -j DROP" % self.address(y), "OUTPUT -d %s -j DROP" % self.address(y))

    def cut_one_way(self, source, target, reject=False):
        """What source sends to target is lost (or reset at the source); what target sends arrives."""
        if reject:
            self._rules(source, "OUTPUT -d %s -p tcp -j REJECT --reject-with tcp-reset" % self.address(target))
        else:
            self._rules(target, "INPUT -s %s -j DROP" % self.address(source))

    def split(self, side, other, reject=False):
        """A symmetric partition between two groups of nodes."""
        for a in side:
            for b in other:
                self.cut(a, b, reject)

    def heal(self, *nodes):
        """Removes all cuts at these nodes (default: all)."""
        for i in nodes or range(1, self.count + 1):
            sh(*self.inside(i), "iptables", "-w", "-F", check=False)

    def link(self, i, up):
        """The cable: with the link down, node i reaches nobody and nobody reaches it, clients included."""
        sh("ip", "link", "set", self.veth(i), "up" if up else "down")

    def loss(self, i, probability):
        """Node i loses incoming packets at random."""
        self._rules(i, "INPUT -i eth0 -m statistic --mode random --probability %.3f -j DROP" % probability)

    # ---- the end ------------------------------------------------------------------------------------------------------------
    def close(self):
        if self.tag is None:
            return
        _remove(self.tag)
        with contextlib.suppress(OSError):
            os.unlink(self.lock_path)
        self.lock.close()
        self.tag = None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close()


class Loopback:
    """The same addresses' shape without namespaces: node N is 127.X.Y.N. Kills and pauses work, cuts do not."""

    def __init__(self, count):
        seed = int.from_bytes(os.urandom(2), "big")
        self.count, self.subnet = count, "127.%d.%d" % (1 + seed // 256 % 250, seed % 256)

    def address(self, i):
        return "%s.%d" % (self.subnet, i)

    def inside(self, i):
        return []

    def _no(self, *_, **__):
        raise NetError("this network cannot be cut: the nodes are on loopback")

    add = cut = cut_one_way = split = link = loss = _no

    def heal(self, *nodes):
        pass

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        pass
