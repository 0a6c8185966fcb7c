"""fleet — a whole Drawbar that stands being broken: 2 brokers, 2 gateways, workers, each with ports and a log of
its own, killed, paused, stopped and started again by name.

    with Fleet(workers={"mia": "--step-ms 1"}) as fleet: fleet.kill(fleet.leader()) ...

Names: broker-a, broker-b, gateway-1, gateway-2, redis, worker-NAME, instance-NAME (of the worker NAME).
"""
import os
import signal

from harness import Cluster, Failed, Http, process_state, program, steady_port, until

BROKERS, GATEWAYS = ("broker-a", "broker-b"), ("gateway-1", "gateway-2")


def descendants(pid):
    """All living processes below this one."""
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return found
    for child in children:
        found += [child, *descendants(child)]
    return found


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


class Fleet(Cluster):
    """See above. `workers` is {name: flags of its simulated instances}."""

    def __init__(self, workers, fsync="always", retention_s=86400, instances=1):
        super().__init__(broker=False, gateway=False, redis={"port": steady_port(), "fsync": fsync})
        self.sims, self.instances, self.running = dict(workers), instances, {}
        self.ports = {name: (steady_port(), steady_port()) for name in BROKERS}
        self.addresses = {name: f"127.0.0.1:{steady_port()}" for name in GATEWAYS}
        self.uploads = {name: steady_port() for name in GATEWAYS}
        self.retention_s = retention_s
        try:
            for name in (*BROKERS, *GATEWAYS, *self.worker_names()):
                self.begin(name)
            self.http = Http(self.addresses[GATEWAYS[0]])
            until(self.leader, 10, "a broker leads")
            for name in GATEWAYS:
                until(lambda http=Http(self.addresses[name]): http.get("/readyz").status == 200, 15, f"{name} is ready")
            for name in self.sims:
                until(lambda name=name: self.worker_is_ready(name), 20, f"worker {name} pulls")
        except BaseException:
            self.failed = True
            self.close()
            raise

    def worker_names(self):
        return [f"worker-{name}" for name in self.sims]

    def begin(self, name):
        """Starts the process of this name, which does not run. Does not wait until it serves."""
        if name == "redis":
            self.redis.start()
            return
        if name in BROKERS:
            gateway_port, worker_port = self.ports[name]
            process = self.broker("--name", name, "--retention-s", self.retention_s, label=name, wait_ready=False,
                                  gateway_port=gateway_port, worker_port=worker_port)
        elif name in GATEWAYS:
            process = self.start(name, [
                program("drawbar-gateway"), "--redis", self.redis.url, "--listen", self.addresses[name], "--uploads",
                f"127.0.0.1:{self.uploads[name]}", "--artifacts", os.path.join(self.directory, "artifacts")], wait_ready=False)
        else:
            worker = name.removeprefix("worker-")
            process = self.worker(worker, sim=self.sims[worker], instances=self.instances, ready=False, wait_ready=False)
        old = self.running.get(name)
        if old is not None:
            self.processes.remove(old)
        self.running[name] = process

    def pid(self, name):
        """0: it does not run."""
        if name == "redis":
            return self.redis.process.pid if self.redis.process.alive() else 0
        if name.startswith("instance-"):
            agent = self.running.get("worker-" + name.removeprefix("instance-"))
            for pid in descendants(agent.pid) if agent is not None and agent.alive() else []:
                if os.path.basename(command_line(pid)[:1][0] if command_line(pid) else b"") == b"drawbar-sim-instance":
                    return pid
            return 0
        process = self.running.get(name)
        return process.pid if process is not None and process.alive() else 0

    def leader(self):
        """The name of the broker that leads; None: none does."""
        told = self.redis.leader()
        for name in BROKERS:
            if told and int(told[2].rsplit(":", 1)[1]) == self.ports[name][0]:
                return name
        return None

    def standby(self):
        leader = self.leader()
        return next((name for name in BROKERS if name != leader), None) if leader else None

    def signal(self, name, number):
        pid = self.pid(name)
        if pid:
            os.kill(pid, number)
        return bool(pid)

    def kill(self, name):
        """kill -9; the process has ended when it returns. An instance is started again by its agent."""
        pid = self.pid(name)
        if not pid:
            return False
        os.kill(pid, signal.SIGKILL)
        if name == "redis":
            self.redis.process.child.wait()
        elif name.startswith("instance-"):
            until(lambda: process_state(pid) in ("", "Z"), 5, f"{name} is dead")
        else:
            self.running[name].child.wait()
        return True

    def pause(self, name):
        pid = self.pid(name)
        if not pid:
            return False
        os.kill(pid, signal.SIGSTOP)
        until(lambda: process_state(pid) in ("T", "", "Z"), 5, f"{name} is stopped")
        return True

    def resume(self, name):
        return self.signal(name, signal.SIGCONT)

    def term(self, name, limit_s=45):
        """SIGTERM and an orderly end. Failed: it hung, or its exit status was not 0."""
        process = self.running[name]
        if not process.alive():
            return False
        status = process.stop(limit_s)
        if status != 0:
            raise Failed(f"{name} ended with {status} on SIGTERM")
        return True

    def crashed(self):
        """Names of processes that ended although nobody hurt them (begin() was not called yet)."""
        return [name for name, process in self.running.items() if not process.alive()]
