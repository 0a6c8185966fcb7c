"""Redis behind Sentinels: a replica takes over, and nothing that was promised is lost."""
import os
import subprocess
import threading
import time

from harness import Cluster, Failed, Http, Process, Redis, Skip, check, check_equal, free_port, holds, program, until
from registry import test
from test_hosts import Hosts, ip

NAME = "drawbar"


class Replicas:
    """One master, `n` replicas, three Sentinels that agree within a second or so; real ones."""

    def __init__(self, directory, n=2):
        self.directory = directory
        self.nodes = [Redis(os.path.join(directory, f"node{i}")) for i in range(n + 1)]
        for node in self.nodes[1:]:
            node.call("REPLICAOF", "127.0.0.1", self.nodes[0].port)
        until(lambda: all(b"master_link_status:up" in node.call("INFO", "replication") for node in self.nodes[1:]), 10,
              "the replicas follow")
        self.ports, self.sentinels = [free_port() for _ in range(3)], []
        for i, port in enumerate(self.ports):
            self.sentinels.append(sentinel(directory, i, port, "127.0.0.1", self.nodes[0].port))
        self.url = "sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + f"/{NAME}"
        # Before each knows the two others and the replicas they could not agree on anybody.
        until(lambda: all(self.knows(port, "sentinels") == 2 and self.knows(port, "slaves") == n for port in self.ports),
              20, "the Sentinels know each other and the replicas")

    @staticmethod
    def knows(port, what):
        asked = subprocess.run(["redis-cli", "-p", str(port), "SENTINEL", what, NAME], capture_output=True, text=True,
                               check=False)
        return asked.stdout.splitlines().count("name")

    def master(self):
        asked = subprocess.run(["redis-cli", "-p", str(self.ports[0]), "SENTINEL", "get-master-addr-by-name", NAME],
                               capture_output=True, text=True, check=False).stdout.split()
        return next((node for node in self.nodes if len(asked) == 2 and node.port == int(asked[1])), None)

    def close(self):
        for process in self.sentinels + [node.process for node in self.nodes]:
            process.kill()


def sentinel_conf(directory, i, port, bind, host, master_port):
    path = os.path.join(directory, f"sentinel{i}.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"port {port}\nbind {bind}\ndir {directory}\nlogfile \"\"\nprotected-mode no\n"
                   f"sentinel monitor {NAME} {host} {master_port} 2\nsentinel down-after-milliseconds {NAME} 1000\n"
                   f"sentinel failover-timeout {NAME} 4000\nsentinel parallel-syncs {NAME} 2\n")
    return path


def sentinel(directory, i, port, host, master_port):
    conf = sentinel_conf(directory, i, port, "127.0.0.1", host, master_port)
    return Process(directory, f"sentinel{i}", ["redis-server", conf, "--sentinel"], wait_ready=False)


class Fleet(Cluster):
    """A cluster whose Redis is behind Sentinels; `c.redis` is the first master."""

    def __init__(self, replicas=2, brokers=2, broker_flags=()):
        super().__init__(broker=False, gateway=False)
        self.redis.process.kill()
        self.replicas = Replicas(self.directory, replicas)
        self.closers.append(self.replicas.close)
        self.redis = self.replicas.nodes[0]
        for i in range(brokers):
            self.broker(*broker_flags, label=f"broker{i}", redis_url=self.replicas.url, wait_ready=i == 0)
        self.gateway(redis_url=self.replicas.url)

    def fleet_worker(self, name, **options):
        self.redis.url = self.replicas.url # what worker() passes on
        return self.worker(name, **options)


def fill(http, ids, stop):
    """Submits until `stop` is set; ids of what was accepted. Only 503 and lost connections are forgiven."""
    while not stop.is_set():
        try:
            answer = http.post_job(width=64, height=64, steps=1)
        except OSError:
            continue
        if answer.status == 202:
            ids.append(answer.json["id"])
        elif answer.status != 503:
            raise Failed(f"a submit was answered {answer.status}: {answer.body[:200]!r}")


@test(limit_s=120)
def a_master_killed_under_load_is_followed_to_its_replica_and_nothing_accepted_is_lost():
    with Fleet() as c:
        c.fleet_worker("mia", sim="--step-ms 1", instances=2)
        until(lambda: c.http.get("/readyz").json["durability"]["mode"] == "replicated", 2, "/readyz tells what may be lost")
        ids, stop = [], threading.Event()
        writers = [threading.Thread(target=fill, args=(c.http, ids, stop)) for _ in range(3)]
        for thread in writers:
            thread.start()
        until(lambda: len(ids) > 50, 20, "jobs are accepted")
        c.redis.process.kill()
        before = len(ids)
        until(lambda: c.replicas.master() not in (None, c.replicas.nodes[0]), 30, "the Sentinels name another master")
        until(lambda: len(ids) > before + 50, 40, "jobs are accepted again")
        stop.set()
        for thread in writers:
            thread.join()
        master = c.replicas.master()
        until(lambda: master.live() == 0, 60, "all jobs have ended")
        lost = [job for job in ids if master.record(job) is None]
        check_equal(lost, [], f"lost of {len(ids)} accepted")
        check_equal({c.http.job(job)["status"] for job in ids}, {"succeeded"}, "states")


@test(limit_s=120)
def without_a_replica_nothing_is_accepted_and_jobs_are_taken_again_when_one_is_back():
    with Fleet(replicas=1, brokers=1) as c:
        c.fleet_worker("mia", sim="--step-ms 1")
        first = c.http.submit()
        c.http.wait(first, "succeeded")
        replica = c.replicas.nodes[1]
        replica.process.pause()
        refused = c.http.post_job(width=64, height=64, steps=1)
        refused.problem(503)
        check(refused.headers["Retry-After"], "Retry-After")
        until(lambda: "redis-unreplicated" in c.broker_process.log(), 5, "the broker says why")
        check("cure=" in c.broker_process.log().split("redis-unreplicated")[1].splitlines()[0], "and what to do")
        holds(lambda: c.http.get("/readyz").status == 503, 2, "the gateway is not ready")
        replica.process.resume()
        until(lambda: c.http.get("/readyz").status == 200, 20, "a broker leads again")
        c.http.wait(c.http.submit(), "succeeded")
        check_equal(c.http.job(first)["status"], "succeeded", "the job before")


@test()
def sentinels_without_replicas_to_wait_for_need_an_explicit_word():
    process = Process("/tmp", f"broker-accept-loss-{os.getpid()}",
                      [program("drawbar-broker"), "--redis", "sentinel://127.0.0.1:1/x", "--redis-wait", "0"],
                      wait_ready=False)
    try:
        check_equal(process.child.wait(10), 2, "exit status")
        check("--accept-loss" in process.log() and "--redis-wait" in process.log(), f"what is said: {process.log()}")
    finally:
        process.kill()
        os.unlink(process.log_path)


@test(limit_s=60)
def a_replica_is_not_taken_for_a_master():
    with Cluster(broker=False, gateway=False) as c:
        other = Redis(os.path.join(c.directory, "other"))
        c.closers.append(other.process.kill)
        other.call("REPLICAOF", "127.0.0.1", c.redis.port)
        broker = c.broker(redis_url=other.url, wait_ready=False)
        until(lambda: "redis-refused" in broker.log(), 10, "the broker says what is wrong")
        check("its role is slave" in broker.log(), f"the role: {broker.log()[-400:]}")
        other.call("REPLICAOF", "NO", "ONE")
        until(other.leader, 10, "once it is a master the broker leads")


class Split(Hosts):
    """Two hosts: the old master, a broker and a gateway here; two replicas, two of three Sentinels, a broker, a
    gateway and a worker there."""

    def server(self, host, label, *words):
        return self.start(host, label, " ".join(str(word) for word in words))

    def build(self):
        a, b = self.addresses
        redis = ("redis-server --port 6379 --protected-mode no --appendonly yes --appendfsync everysec --save '' "
                 "--maxmemory 256mb --maxmemory-policy noeviction --dir .")
        self.server(0, "redis0", redis, "--bind", a)
        for label, port in (("redis1", 6379), ("redis2", 6380)):
            self.server(1, label, redis.replace("6379", str(port)), "--bind", b, "--replicaof", a, 6379)
            until(lambda p=port: b"master_link_status:up" in self.redis(1, "INFO", "replication", port=p), 15,
                  f"{label} follows")
        for i, host in enumerate((0, 1, 1)):
            conf = sentinel_conf(self.directory, i, 26379 + i, self.addresses[host], a, 6379)
            self.server(host, f"sentinel{i}", "redis-server", conf, "--sentinel")
        self.url = f"sentinel://{a}:26379,{b}:26380,{b}:26381/{NAME}"
        until(lambda: all(self.redis(host, "SENTINEL", "sentinels", NAME, port=26379 + i).count(b"runid") == 2
                          for i, host in enumerate((0, 1, 1))), 30, "the Sentinels know each other")
        # The order of the list is the order of asking: each side's own first.
        for host, label in ((0, "broker0"), (1, "broker1")):
            self.server(host, label, "drawbar-broker --insecure-plaintext --gateway-port 5570 --worker-port 5571 --redis",
                        self.url, "--host", self.addresses[host], "--name", label)
            if host == 0:
                until(lambda: len(self.redis(0, "GET", "{drawbar}:leader").split()) == 4
                      and b"-" not in self.redis(0, "GET", "{drawbar}:leader").split()[3:], 20, "the first one leads")
        for host, label in ((0, "gateway0"), (1, "gateway1")):
            self.server(host, label, "drawbar-gateway --insecure-plaintext --redis", self.url, "--listen",
                        f"{self.addresses[host]}:8080", "--uploads", f"{self.addresses[host]}:8081", "--artifacts",
                        f"{self.directory}/artifacts")
            until(lambda h=host: b'"ready":true' in self.ask(h, self.api(h, "/readyz")), 20, f"{label} is ready")

    def redis(self, host, *words, port=6379):
        return self.run(host, "redis-cli", "-h", self.addresses[host], "-p", str(port), *words)

    def api(self, host, path):
        return f"http://{self.addresses[host]}:8080{path}"

    def submit(self, host):
        """(status, id)"""
        import json # pylint: disable=import-outside-toplevel
        told = self.run(host, "curl", "-s", "-m", "20", "-w", "\n%{http_code}", self.api(host, "/v1/jobs"), "--json",
                        '{"prompt":"x","width":64,"height":64,"steps":1}')
        body, _, status = told.rpartition(b"\n")
        return int(status), json.loads(body)["id"] if status == b"202" else None

    def link(self, state):
        ip("-n", self.names[1], "link", "set", self.names[1], state)


@test(limit_s=180)
def a_partition_with_two_masters_loses_nothing_that_was_promised():
    import shutil # pylint: disable=import-outside-toplevel
    if not shutil.which("redis-cli"):
        raise Skip("redis-cli is missing")
    with Split() as hosts:
        hosts.build()
        accepted = [hosts.submit(0), hosts.submit(1)]
        check_equal([status for status, _ in accepted], [202, 202], "submits before")
        hosts.link("down")
        begin = time.monotonic()
        # The old master goes on with everything that writes to it; no replica hears of it.
        refused = [hosts.submit(0) for _ in range(2)]
        check_equal([status for status, _ in refused], [503, 503], "submits on the wrong side")
        check(hosts.redis(0, "ROLE").startswith(b"master"), "the old master still thinks that it is one")

        def there():
            status, job = hosts.submit(1)
            accepted.append((status, job))
            return status == 202
        until(there, 40, "the other side accepts")
        took = time.monotonic() - begin
        for _ in range(5):
            accepted.append(hosts.submit(1))
        masters = [hosts.redis(host, "ROLE", port=port).startswith(b"master") for host, port in ((0, 6379), (1, 6379), (1, 6380))]
        check_equal(masters.count(True), 2, "masters")
        check_equal(hosts.submit(0)[0], 503, "a submit on the wrong side while the other accepts")
        hosts.link("up")
        until(lambda: hosts.redis(0, "ROLE").startswith(b"slave"), 60, "the old master is a replica")
        until(lambda: hosts.submit(0)[0] == 202, 40, "the first host accepts again")
        hosts.server(1, "worker", "drawbar-worker --insecure-plaintext --name far --base-port 0 --redis", hosts.url, "--start",
                     "'drawbar-sim-instance --port {port} --step-ms 1'")
        ids = [job for status, job in accepted if status == 202]
        check(len(ids) >= 8, f"accepted {accepted}")
        for job in ids:
            until(lambda j=job: b'"status":"succeeded"' in hosts.ask(1, hosts.api(1, f"/v1/jobs/{j}")), 60,
                  f"the accepted job {job} succeeds")
        print(f"    {len(ids)} accepted, 0 lost; the other side accepted {took:.1f} s after the cut")
