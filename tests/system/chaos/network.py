"""network — hosts of one test as network namespaces around a router, with links that can be cut and slowed.

    redis   one   two   edge   gpu   gpu2
      |      |     |      |     |     |        each 10.77.N.2/24
      `------`-----`--+---`-----`-----'
                   router                      where the test itself lives

A cut is a rule of the router that drops packets from one host to another: the hosts notice nothing but
silence, as in a real network. A delay is a TUN device of the router whose packets a thread hands back later.
Nothing outside these namespaces can be reached from them.
"""
import collections
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import time

from harness import Cluster, Http, Redis, Skip, check, program, until

HOSTS = ("redis", "one", "two", "edge", "gpu", "gpu2")
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
DELAY_TABLE, TUN = 100, "slow0"
RULE_BACK, RULE_CUT, RULE_DELAY = 10, 20, 30 # order in which the router looks at its rules


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skip(f"NOT TESTED: the network. ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def address(host):
    return f"10.77.{HOSTS.index(host)}.2"


class Network:
    """The namespaces. The calling thread moves into the router's, and with it all that it starts."""

    def __init__(self):
        if os.geteuid() != 0 or not shutil.which("ip"):
            raise Skip("NOT TESTED: the network. Namespaces need root and iproute2")
        self.mark = f"dbn{os.getpid() % 100000}"
        self.router = f"{self.mark}r"
        self.cuts, self.slow, self.tun = set(), False, None
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def name(self, host):
        return f"{self.mark}{HOSTS.index(host)}"

    def __enter__(self):
        try:
            ip("netns", "add", self.router)
            ip("-n", self.router, "link", "set", "lo", "up")
            for i, host in enumerate(HOSTS):
                ip("netns", "add", self.name(host))
                ip("-n", self.name(host), "link", "set", "lo", "up")
                ip("link", "add", f"to{i}", "netns", self.router, "type", "veth", "peer", "name", "net",
                   "netns", self.name(host))
                ip("-n", self.router, "addr", "add", f"10.77.{i}.1/24", "dev", f"to{i}")
                ip("-n", self.router, "link", "set", f"to{i}", "up")
                ip("-n", self.name(host), "addr", "add", f"{address(host)}/24", "dev", "net")
                ip("-n", self.name(host), "link", "set", "net", "up")
                ip("-n", self.name(host), "route", "add", "default", "via", f"10.77.{i}.1")
            self._enter(f"/run/netns/{self.router}")
            for path, value in (("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")):
                with open(f"/proc/sys/net/ipv4/{path}", "w", encoding="ascii") as file:
                    file.write(value)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.tun is not None:
            os.close(self.tun)
        self._enter(f"/proc/self/fd/{self.home}")
        for name in [self.router, *map(self.name, HOSTS)]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    @staticmethod
    def _enter(path):
        namespace = os.open(path, os.O_RDONLY)
        check(ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) == 0, f"setns {path}")
        os.close(namespace)

    # ---- cuts ----

    def cut_one_way(self, source, sink):
        """What `source` sends to `sink` is lost."""
        self.cuts.add((source, sink))
        ip("rule", "add", "priority", RULE_CUT, "from", address(source), "to", address(sink), "blackhole")

    def cut(self, host, *others):
        for other in others:
            self.cut_one_way(host, other)
            self.cut_one_way(other, host)

    def heal(self):
        for source, sink in self.cuts:
            ip("rule", "del", "priority", RULE_CUT, "from", address(source), "to", address(sink), "blackhole")
        self.cuts = set()

    # ---- delays ----

    def delay(self, host, other, seconds):
        """Each packet between the two takes so long, in each direction."""
        if self.tun is None:
            self.tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH", TUN.encode(), IFF_TUN | IFF_NO_PI))
            ip("link", "set", TUN, "txqueuelen", 10000, "up")
            ip("route", "add", "default", "dev", TUN, "table", DELAY_TABLE)
            ip("rule", "add", "priority", RULE_BACK, "iif", TUN, "lookup", "main")
            threading.Thread(target=self._carry, args=(seconds,), daemon=True).start()
        for source, sink in ((host, other), (other, host)):
            ip("rule", "add", "priority", RULE_DELAY, "from", address(source), "to", address(sink), "lookup",
               DELAY_TABLE)

    def _carry(self, seconds):
        """Packets come back in the order in which they came, each `seconds` late."""
        held, wake = collections.deque(), threading.Condition()

        def give_back():
            while True:
                with wake:
                    while not held:
                        wake.wait()
                    due, packet = held[0]
                time.sleep(max(0.0, due - time.monotonic()))
                held.popleft()
                try:
                    os.write(self.tun, packet)
                except OSError:
                    return # closed: the test is over
        threading.Thread(target=give_back, daemon=True).start()
        while True:
            try:
                packet = os.read(self.tun, 65536)
            except OSError:
                return # closed: the test is over
            with wake:
                held.append((time.monotonic() + seconds, packet))
                wake.notify()


class FarRedis(Redis):
    """On the host "redis"."""

    def __init__(self, network, directory):
        super().__init__(directory, ["ip", "netns", "exec", network.name("redis")], 6379, host=address("redis"))


class FarCluster(Cluster):
    """Brokers on `one` (it leads) and `two`, a gateway on `edge`, workers where the test wants them."""

    def __init__(self, network): # pylint: disable=super-init-not-called
        self.network, self.directory = network, tempfile.mkdtemp(prefix="drawbar-far.")
        self.processes, self.closers, self.failed = [], [], False
        self.redis = self.http = None
        try:
            self.redis = FarRedis(network, self.directory)
            self.one = self.far("one", "drawbar-broker", "--host", address("one"), "--gateway-port", 5570,
                                "--worker-port", 5571)
            self.two = self.far("two", "drawbar-broker", "--host", address("two"), "--gateway-port", 5570,
                                "--worker-port", 5571, wait_ready=False)
            self.edge = self.far("edge", "drawbar-gateway", "--listen", f"{address('edge')}:8080", "--uploads",
                                 f"{address('edge')}:8081", "--artifacts", os.path.join(self.directory, "artifacts"))
            self.http = Http(f"{address('edge')}:8080")
            until(lambda: self.http.get("/readyz").status == 200, 15, "the gateway is ready")
            until(lambda: "standby leader=" in self.two.log(), 10, "the second broker stands by")
        except BaseException:
            self.failed = True
            self.close()
            raise

    def far(self, host, name, *flags, label=None, **options):
        return self.start(label or host, ["ip", "netns", "exec", self.network.name(host), program(name), "--redis",
                                          self.redis.url, "--insecure-plaintext", *flags], **options)

    def far_worker(self, host, name, step_ms=100, instances=2):
        process = self.far(host, "drawbar-worker", "--name", name, "--state-dir", os.path.join(self.directory, name),
                           "--start", f"{program('drawbar-sim-instance')} --port {{port}} --step-ms {step_ms}",
                           "--instances", instances, "--base-port", 0, label=f"worker-{name}")
        until(lambda: self.worker_is_ready(name), 20, f"worker {name} pulls")
        return process

    def evictions(self):
        return sum(broker.log().count("worker-evicted") for broker in (self.one, self.two))
