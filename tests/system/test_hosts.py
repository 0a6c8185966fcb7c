"""More than one host, without a second one: network namespaces with addresses of their own."""
import json
import os
import shutil
import subprocess
import tempfile
import time

from harness import LOGS, SLOWNESS, Failed, Skip, check, check_equal, environment, until
from pictures import png_size
from registry import test


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Hosts:
    """Two namespaces, 10.77.0.1 and 10.77.0.2, joined by a veth pair. Nothing else can be reached."""

    def __init__(self):
        if os.geteuid() != 0 or not shutil.which("ip"):
            raise Skip("network namespaces need root and iproute2")
        mark = f"{os.getpid() % 100000}"
        self.names = [f"dba{mark}", f"dbb{mark}"]
        self.addresses = ["10.77.0.1", "10.77.0.2"]
        self.directory = tempfile.mkdtemp(prefix="drawbar-hosts.")
        self.children = []

    def __enter__(self):
        try:
            for name in self.names:
                ip("netns", "add", name)
            ip("link", "add", self.names[0], "netns", self.names[0], "type", "veth", "peer", "name", self.names[1],
               "netns", self.names[1])
            for name, address in zip(self.names, self.addresses):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
                ip("-n", name, "link", "set", name, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, _value, _trace):
        for child, _log in self.children:
            if child.poll() is None:
                child.terminate()
        for child, log in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if kind not in (None, Skip):
                LOGS.append(f"-- {os.path.basename(log)}")
                LOGS.extend(read(log).splitlines()[-40:])
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, host, label, command):
        """Runs a shell line on a host as a user would paste it; returns the path of its output."""
        log = os.path.join(self.directory, f"{label}.log")
        work = os.path.join(self.directory, label)
        os.makedirs(work)
        with open(log, "wb") as file:
            child = subprocess.Popen(["ip", "netns", "exec", self.names[host], "sh", "-c", f"exec {command}"],
                                     stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=work,
                                     env=environment(HOME=work, TMPDIR=work, XDG_STATE_HOME=work))
        self.children.append((child, log))
        return child, log

    def run(self, host, *command):
        done = subprocess.run(["ip", "netns", "exec", self.names[host], *command], capture_output=True,
                              env=environment(), timeout=30, check=False)
        return done.stdout

    def ask(self, host, url, *options):
        """HTTP from a host, by curl. OSError when nobody answers, so that until() waits."""
        out = self.run(host, "curl", "-sS", "--max-time", "10", *options, url)
        if not out:
            raise OSError(f"no answer from {url}")
        return out


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


@test(limit_s=120)
def the_line_that_up_prints_makes_a_worker_on_a_second_host_that_takes_jobs():
    with Hosts() as hosts:
        up, log = hosts.start(0, "up", f"drawbar up --workers 0 --port 8080 --data {hosts.directory}/data "
                                       f"--listen {hosts.addresses[0]}")

        def line_to_paste():
            if up.poll() is not None:
                raise Failed(f"drawbar up ended with {up.returncode}:\n{read(log)[-1500:]}")
            found = [line.strip() for line in read(log).splitlines() if line.strip().startswith("drawbar-worker ")]
            return found[0] if found else None
        line = until(line_to_paste, 20, "drawbar up prints the line for the next host")
        check(hosts.addresses[0] in line, f"the address in {line!r}")

        def api(host, path, *options):
            base = f"http://{hosts.addresses[0] if host else '127.0.0.1'}:8080"
            return json.loads(hosts.ask(host, base + path, *options))
        until(lambda: hosts.ask(0, "http://127.0.0.1:8080/healthz"), 15, "the gateway answers")
        body = json.dumps({"prompt": "far away", "width": 128, "height": 64, "steps": 2})
        job = api(0, "/v1/jobs", "-H", "Content-Type: application/json", "-d", body)
        hosts.start(1, "far", line)
        until(lambda: api(0, f"/v1/jobs/{job['id']}")["status"] == "succeeded", 30, "the job is drawn")
        done = api(0, f"/v1/jobs/{job['id']}")
        check_equal(done["attempt"], 1, "attempt")
        picture = hosts.ask(0, f"http://127.0.0.1:8080{done['images'][0]['url']}")
        check_equal(png_size(picture), (128, 64), "size of the picture")
        # A line without its password is refused: the listening Redis is not open to everybody.
        answer = hosts.run(1, "sh", "-c", f"printf 'PING\\r\\n' | timeout 2 bash -c "
                           f"'exec 3<>/dev/tcp/{hosts.addresses[0]}/{redis_port(line)}; cat >&3; head -n1 <&3'")
        check(b"NOAUTH" in answer, f"Redis without a password answers {answer!r}")


def redis_port(line):
    return line.split("redis://", 1)[1].split("@")[-1].split()[0].strip("'\"").split(":")[1].split("/")[0]


@test(limit_s=120)
def a_host_that_drops_off_the_network_is_evicted_and_used_again_when_it_is_back():
    with Hosts() as hosts:
        up, log = hosts.start(0, "up", f"drawbar up --workers 0 --port 8080 --data {hosts.directory}/data "
                                       f"--listen {hosts.addresses[0]}")
        line = until(lambda: next((text.strip() for text in read(log).splitlines()
                                   if text.strip().startswith("drawbar-worker ")), None), 20, "the line to paste")
        check(up.poll() is None, "drawbar up runs")
        hosts.start(1, "far", line)

        def api(path, *options):
            return json.loads(hosts.ask(0, f"http://127.0.0.1:8080{path}", *options))

        def submit(**request):
            body = json.dumps({"prompt": "a", "width": 64, "height": 64, "steps": 1, **request})
            return api("/v1/jobs", "-H", "Content-Type: application/json", "-d", body)["id"]
        first = submit()
        until(lambda: api(f"/v1/jobs/{first}")["status"] == "succeeded", 30, "the far worker draws")
        ip("-n", hosts.names[1], "link", "set", hosts.names[1], "down")
        begin = time.monotonic()
        lost = submit(steps=2)
        until(lambda: api(f"/v1/jobs/{lost}")["status"] == "queued"
              and api(f"/v1/jobs/{lost}")["reason"] == "no_worker", 20, "the far worker is evicted")
        check(time.monotonic() - begin < 15 * SLOWNESS, "the eviction")
        ip("-n", hosts.names[1], "link", "set", hosts.names[1], "up")
        until(lambda: api(f"/v1/jobs/{lost}")["status"] == "succeeded", 40, "the far worker draws again")


