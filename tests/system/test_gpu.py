"""GPUs as NVML tells them, which one an instance gets, and the wait for their memory. NVML is a fake here
(tests/unit/fake_nvml.c), whose figures the tests write."""
import os
import signal
import subprocess

from harness import BUILD, SLOWNESS, Cluster, check, check_equal, environment, free_port, holds, process_state, program, until
from registry import test

TOTAL_MIB = 80000
STALE_S = 10 # LIMIT_GPU_STALE_MS


class Gpus:
    """What the fake tells."""

    def __init__(self, c, n=1):
        self.path = os.path.join(c.directory, "gpus")
        self.flags = ("--nvml", os.path.join(BUILD, "tests", "unit", "libfake_nvml.so"))
        self.used = [1000 + i for i in range(n)]
        self.tell()

    def env(self, **more):
        return environment(FAKE_NVML=self.path, **more)

    def tell(self, *lines):
        """The devices, then `lines`: processes and troubles."""
        devices = [f"device {TOTAL_MIB} {used} {30 + i} 10 {40 + i} {300000 + i * 1000} 700000 Fake H100"
                   for i, used in enumerate(self.used)]
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            file.write("\n".join([*devices, *lines]) + "\n")
        os.rename(self.path + ".new", self.path)


def worker_of(c, name):
    return next((w for w in c.http.workers() if w["name"] == name), {})


def table(c):
    done = subprocess.run([program("drawbar"), "workers", "--server", f"http://{c.http.address}"], capture_output=True,
                          text=True, timeout=20, env=environment(), check=False)
    check_equal(done.returncode, 0, f"status of drawbar workers ({done.stderr})")
    return done.stdout


def told_environment(c, index):
    """CUDA's words in the environment of a started instance, and the {device} of its command."""
    with open(os.path.join(c.directory, f"env-{index}"), encoding="utf-8") as file:
        words = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    return tuple(words.get(key) for key in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "TOLD_DEVICE"))


def telling(c):
    """A command that writes its environment and becomes the simulated instance."""
    return (f"export TOLD_DEVICE={{device}}; env >{c.directory}/env-{{index}}; "
            f"exec {program('drawbar-sim-instance')} --port {{port}} --step-ms 5")


def ready(c, name, n):
    instances = worker_of(c, name).get("instances", [])
    return len(instances) == n and all(i["state"] == "ready" for i in instances) and instances


@test(short=True)
def figures_of_every_gpu_are_told_and_follow_the_driver():
    with Cluster() as c:
        gpus = Gpus(c, 2)
        c.worker("mia", *gpus.flags, env=gpus.env())
        told = until(lambda: worker_of(c, "mia").get("gpus"), 10, "the GPUs are told")
        check_equal(len(told), 2, "how many GPUs")
        age = told[1].pop("age_ms")
        check(0 <= age <= STALE_S * 1000, f"age_ms {age}")
        check_equal(told[1], {
            "index": 1, "name": "Fake H100", "uuid": "GPU-00001001-fa4e-fa4e-fa4e-000000000001",
            "memory_total_mib": TOTAL_MIB, "memory_used_mib": 1001, "memory_free_mib": TOTAL_MIB - 1001,
            "utilization_percent": 31, "memory_utilization_percent": 10, "temperature_c": 41, "power_w": 301,
            "power_limit_w": 700}, "the second GPU")
        text = table(c)
        for word in ("Fake H100", "31 %", "1.0 / 78.1 GiB", "41 C", "301 / 700 W"):
            check(word in text, f"{word!r} in the table:\n{text}")
        gpus.used[1] = 70000
        gpus.tell("fail nvmlDeviceGetTemperature 3", "fail nvmlDeviceGetHandleByIndex:0 15")
        told = until(lambda: [g for g in worker_of(c, "mia")["gpus"] if g["memory_used_mib"] == 70000], 10, "news")
        check_equal([(g["index"], "temperature_c" in g) for g in told], [(1, False)], "what is left of them")
        check_equal(len(worker_of(c, "mia")["gpus"]), 1, "a GPU that does not open is not told")


@test(short=True)
def without_a_gpu_nothing_is_said_of_any():
    with Cluster() as c:
        agent = c.worker("mia", "--nvml", os.path.join(c.directory, "no-such-library"), start=telling(c), instances=2,
                         env=environment(CUDA_VISIBLE_DEVICES="5,6"))
        instances = until(lambda: ready(c, "mia", 2), 15, "the instances are ready")
        check("gpus" not in worker_of(c, "mia"), "no GPUs")
        check(not any("gpu" in i for i in instances), "nor of an instance")
        check("GPU" not in table(c), "nor in the table")
        check_equal([told_environment(c, i) for i in range(2)], [("5,6", None, "0"), ("5,6", None, "1")],
                    "the environment is left as it is")
        check_equal(agent.log().count("gpu-facts-absent"), 1, "lines that say so")


@test(short=True)
def started_instances_get_the_gpus_in_turn():
    with Cluster() as c:
        gpus = Gpus(c, 2)
        c.worker("mia", *gpus.flags, start=telling(c), instances=3, env=gpus.env())
        instances = until(lambda: ready(c, "mia", 3), 15, "the instances are ready")
        check_equal([told_environment(c, i) for i in range(3)],
                    [(str(d), "PCI_BUS_ID", str(d)) for d in (0, 1, 0)], "environments")
        check_equal([i["gpu"]["index"] for i in instances], [0, 1, 0], "devices told")


@test()
def the_list_of_devices_is_kept_with_and_without_nvml():
    with Cluster() as c:
        gpus = Gpus(c, 4)
        c.worker("mia", *gpus.flags, "--devices", "3,1", start=telling(c), instances=2,
                 env=gpus.env(CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="FASTEST_FIRST"))
        until(lambda: ready(c, "mia", 2), 15, "the instances are ready")
        check_equal([told_environment(c, i) for i in range(2)],
                    [("3", "PCI_BUS_ID", "3"), ("1", "PCI_BUS_ID", "1")], "environments")
        c.worker("zoe", "--nvml", "none", "--devices", "2", start=telling(c), env=environment())
        until(lambda: ready(c, "zoe", 1), 15, "the instance without NVML is ready")
        check_equal(told_environment(c, 0), ("2", "PCI_BUS_ID", "2"), "its environment")


@test()
def without_a_list_only_the_gpus_are_used_that_the_agent_may_see():
    with Cluster() as c:
        gpus = Gpus(c, 4)
        uuid = "GPU-00001001"
        c.worker("mia", *gpus.flags, start=telling(c), instances=3, env=gpus.env(CUDA_VISIBLE_DEVICES=f"2,{uuid}"))
        until(lambda: ready(c, "mia", 3), 15, "the instances are ready")
        check_equal([told_environment(c, i)[0] for i in range(3)], ["2", "1", "2"], "CUDA_VISIBLE_DEVICES")


@test(short=True)
def a_wrong_list_of_devices_is_refused_with_the_cure():
    with Cluster(broker=False, gateway=False) as c:
        gpus = Gpus(c, 2)
        for n, (flags, says) in enumerate([
                (("--devices", "0,2"), ("--devices", "2", "nvidia-smi")), (("--devices", "0,0"), ("--devices", "twice")),
                (("--devices", "cuda:0"), ("--devices", "cuda:0", "auto")), (("--devices", ""), ("--devices", "auto")),
                (("--instance-memory-mib", TOTAL_MIB + 1), ("--instance-memory-mib", str(TOTAL_MIB + 1)))]):
            agent = c.worker(f"w{n}", *gpus.flags, *flags, env=gpus.env(), ready=False, wait_ready=False)
            until(lambda a=agent: not a.alive(), 10, f"{flags}: the agent ends")
            check(agent.child.returncode != 0, f"{flags}: exit status")
            for word in says:
                check(word in agent.log().partition("\n")[2], f"{word!r} for {flags}: {agent.log()}")


@test(short=True)
def memory_is_told_of_started_and_of_attached_instances():
    with Cluster() as c:
        gpus = Gpus(c, 2)
        port = free_port()
        sim = c.start("sim", [program("drawbar-sim-instance"), "--port", port, "--step-ms", 5])
        start = f"sleep 1000 & {program('drawbar-sim-instance')} --port {{port}} --step-ms 5; true"
        c.worker("mia", *gpus.flags, "--attach", f"driver=drawbar url=http://127.0.0.1:{port}", start=start,
                 env=gpus.env())
        started, attached = until(lambda: ready(c, "mia", 2), 15, "the instances are ready")
        check("gpu" not in attached, f"nothing is known yet of {attached}")
        check_equal(started["gpu"], {"index": 0}, "of the started one only its device")
        family = children_of(started["pid"])
        check_equal(len(family), 2, "processes of the started one's shell")
        gpus.tell(f"process 0 {family[0]} 300", f"process 0 {family[1]} 4000", f"process 1 {sim.pid} 5000",
                  f"process 0 {os.getpid()} 70")
        until(lambda: c.instance("mia", 0)["gpu"] == {"index": 0, "memory_used_mib": 4300, "memory_peak_mib": 4300}, 10,
              "the memory of the started one's family")
        until(lambda: c.instance("mia", 1).get("gpu") == {"index": 1, "memory_used_mib": 5000}, 10, "the attached one's")


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
        return [int(word) for word in file.read().split()]


@test(limit_s=90)
def a_restart_waits_for_the_memory_that_was_used_and_names_who_has_it():
    with Cluster() as c:
        gpus = Gpus(c)
        agent = c.worker("mia", *gpus.flags, env=gpus.env())
        pid = until(lambda: ready(c, "mia", 1), 15, "the instance is ready")[0]["pid"]
        gpus.used[0] = 21000
        gpus.tell(f"process 0 {pid} 20000")
        until(lambda: c.instance("mia")["gpu"].get("memory_peak_mib") == 20000, 10, "its memory was seen")
        holder = subprocess.Popen(["sleep", "1000"])
        try:
            gpus.used[0] = TOTAL_MIB - 19999
            gpus.tell(f"process 0 {holder.pid} 59000", "process 0 1 300")
            os.killpg(os.getpgid(pid), signal.SIGKILL)
            waiting = until(lambda: (i := c.instance("mia"))["state"] == "down" and i.get("reason") and i, 15,
                            "it waits")
            for word in ("20000 MiB", "GPU 0", f"pid {holder.pid} (sleep) 59000 MiB", "19999"):
                check(word in waiting["reason"], f"{word!r} in {waiting['reason']!r}")
            holds(lambda: c.instance("mia")["state"] == "down", 2, "it waits for one MiB more")
            check(f"pid {holder.pid} (sleep) 59000 MiB" in agent.log(), "the log names the holder")
            check_equal(c.instance("mia")["pid"], 0, "nothing was started")
        finally:
            holder.kill()
            holder.wait()
        gpus.used[0] = TOTAL_MIB - 20000
        gpus.tell()
        instance = until(lambda: ready(c, "mia", 1), 15, "it is started when there is room")[0]
        check("reason" not in instance, f"no reason is left: {instance}")
        c.http.wait(c.http.submit(), "succeeded")


@test(limit_s=90)
def a_start_waits_for_the_memory_it_is_said_to_need_and_for_what_another_has_yet_to_take():
    with Cluster() as c:
        gpus = Gpus(c)
        gpus.used[0] = 50001
        gpus.tell()
        slow = f"sleep 2; exec {program('drawbar-sim-instance')} --port {{port}} --step-ms 5"
        agent = c.worker("mia", *gpus.flags, "--instance-memory-mib", 30000, start=slow, instances=2, env=gpus.env(),
                         ready=False)
        until(lambda: "30000 MiB" in (c.instance("mia") or {}).get("reason", ""), 15, "the first start waits")
        check_equal(agent.log().count("instance-started"), 0, "starts")
        gpus.used[0] = 50000 # room for one of them, which does not yet use it
        gpus.tell()
        until(lambda: "instance-started" in agent.log(), 10, "the first is started")
        until(lambda: any(i["state"] == "ready" for i in worker_of(c, "mia")["instances"]), 15, "it is ready")
        first = agent.log().index("to=ready")
        check_equal(agent.log()[:first].count("instance-started"), 1, "the second waited while the first was loading")


@test(limit_s=120)
def a_driver_that_hangs_stops_neither_the_beats_nor_the_work_nor_the_end():
    with Cluster() as c:
        gpus = Gpus(c)
        agent = c.worker("mia", *gpus.flags, env=gpus.env())
        until(lambda: worker_of(c, "mia").get("gpus"), 10, "the GPU is told")
        gpus.tell("hang")
        oldest = 0

        def gone():
            nonlocal oldest
            worker = worker_of(c, "mia")
            check_equal(worker["state"], "alive", "state of the worker")
            check(worker["last_beat_ms"] < 4500 * SLOWNESS, f"the last beat is {worker['last_beat_ms']} ms old")
            oldest = max([oldest] + [gpu["age_ms"] for gpu in worker.get("gpus", [])])
            return "gpus" not in worker
        until(gone, STALE_S + 10, "the figures are not told for ever")
        check(oldest > 2500, f"their age was told before: at most {oldest} ms")
        check(oldest <= STALE_S * 1000, f"and they end in time: {oldest} ms")
        c.http.wait(c.http.submit(), "succeeded")
        pid = c.instance("mia")["pid"]
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        until(lambda: ready(c, "mia", 1) and c.instance("mia")["pid"] != pid, 15, "a restart waits for nothing")
        pid = c.instance("mia")["pid"]
        check_equal(agent.log().count("gpu-silent"), 1, "lines that say so")
        check_equal(agent.stop(), 0, "exit status")
        check_equal(process_state(pid), "", "state of the instance")


@test(limit_s=90)
def a_driver_that_hangs_at_the_start_delays_it_and_no_more():
    with Cluster() as c:
        gpus = Gpus(c)
        gpus.tell("hang")
        agent = c.worker("mia", *gpus.flags, env=gpus.env(), limit_s=40)
        until(lambda: ready(c, "mia", 1), 30, "the instance is ready")
        check("gpu-devices-unknown" in agent.log(), "the log says that no device was chosen")
        c.http.wait(c.http.submit(), "succeeded")
