"""A failed start says what was wrong and what to do."""
import os
import socket
import subprocess

from harness import SLOWNESS, Cluster, Failed, check, check_equal, environment, free_port, program, until
from registry import test

PROGRAMS = ("drawbar-broker", "drawbar-gateway", "drawbar-worker", "drawbar-sim-instance", "drawbar")


def start(name, *words, limit_s=5 * SLOWNESS):
    try:
        done = subprocess.run([program(name), *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=limit_s, text=True, env=environment(), check=False)
    except subprocess.TimeoutExpired as running:
        raise Failed(f"{name} {words} runs instead of ending: {(running.stderr or b'')[-500:]!r}") from running
    return done.returncode, done.stdout, done.stderr


def refused(name, *words, says):
    """The start fails with a message that has every word of `says`."""
    status, out, err = start(name, *words)
    check(status not in (0, None) and status > 0, f"{name} {words}: exit status {status}")
    for word in says:
        check(word in err + out, f"{name} {words}: {word!r} is not in {err + out!r}")
    check("ready role=" not in out, f"{name} said it was ready")


@test(short=True)
def help_and_version_are_answered_and_unknown_flags_refused_by_every_program():
    for name in PROGRAMS:
        status, out, _ = start(name, "--help")
        check_equal(status, 0, f"{name} --help")
        check(name in out and len(out.splitlines()) >= 3, f"{name} --help says {out!r}")
        status, out, _ = start(name, *(("version",) if name == "drawbar" else ("--version",)))
        check(status == 0 and any(c.isdigit() for c in out), f"{name} --version: {status} {out!r}")
        refused(name, "--no-such-flag", says=["no-such-flag"])


@test(short=True)
def numbers_and_files_that_make_no_sense_are_refused():
    redis = ("--redis", "redis://127.0.0.1:6379")
    refused("drawbar-broker", *redis, "--worker-port", "70000", says=["worker-port", "70000"])
    refused("drawbar-broker", *redis, "--worker-port", "abc", says=["worker-port", "abc"])
    refused("drawbar-broker", *redis, "--config", "/nonexistent/x.ini", says=["/nonexistent/x.ini"])
    refused("drawbar-gateway", *redis, "--listen", "nonsense", "--uploads", "127.0.0.1:0", "--artifacts", ".",
            says=["nonsense"])
    refused("drawbar-gateway", *redis, "--listen", "127.0.0.1:0", "--uploads", "127.0.0.1:0", "--artifacts",
            "/proc/nope", says=["/proc/nope"])
    refused("drawbar-worker", *redis, "--name", "mia", says=["attach"])
    refused("drawbar-worker", *redis, "--name", "mia", "--attach", "url", says=["attach"])
    refused("drawbar-worker", *redis, "--name", "mia", "--attach", "driver=nope url=http://127.0.0.1:1",
            says=["nope"])
    refused("drawbar-worker", *redis, "--name", "no name", "--attach", "driver=drawbar url=http://127.0.0.1:1",
            says=["name"])


@test(short=True)
def a_bad_redis_url_is_refused():
    # The URL itself is not repeated: it may hold a password.
    for url in ("http://127.0.0.1:6379", "redis://", "redis://127.0.0.1:0x", "nonsense"):
        refused("drawbar-broker", "--redis", url, "--host", "127.0.0.1", says=["--redis"])


@test()
def a_taken_port_is_named():
    with Cluster() as c, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused("drawbar-gateway", "--redis", c.redis.url, "--listen", f"127.0.0.1:{port}", "--uploads",
                "127.0.0.1:0", "--artifacts", os.path.join(c.directory, "a2"), says=[str(port)])
        refused("drawbar-gateway", "--redis", c.redis.url, "--listen", "127.0.0.1:0", "--uploads",
                f"127.0.0.1:{port}", "--artifacts", os.path.join(c.directory, "a3"), says=[str(port)])
        refused("drawbar-sim-instance", "--port", port, says=[str(port)])


@test()
def a_broker_that_cannot_bind_its_doors_says_so():
    with Cluster(broker=False, gateway=False) as c, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused("drawbar-broker", "--redis", c.redis.url, "--host", "127.0.0.1", "--gateway-port", port,
                "--worker-port", 0, says=[str(port)])


@test(short=True)
def binding_beyond_loopback_needs_a_word_that_it_is_meant():
    redis = ("--redis", "redis://127.0.0.1:6379")
    refused("drawbar-broker", *redis, "--host", "0.0.0.0", "--advertise", "192.0.2.1", says=["insecure-plaintext"])
    refused("drawbar-gateway", *redis, "--listen", "0.0.0.0:0", "--uploads", "127.0.0.1:0", "--artifacts",
            "a", says=["insecure-plaintext"])
    refused("drawbar-gateway", *redis, "--listen", "127.0.0.1:0", "--uploads", "0.0.0.0:0", "--artifacts",
            "a", says=["insecure-plaintext"])


@test()
def a_wildcard_without_an_address_to_tell_others_is_refused_with_the_cure():
    refused("drawbar-broker", "--redis", "redis://127.0.0.1:6379", "--host", "0.0.0.0", "--insecure-plaintext",
            says=["advertise"])


@test()
def plaintext_redis_beyond_loopback_is_refused():
    redis = ("--redis", "redis://192.0.2.1:6379")
    refused("drawbar-worker", *redis, "--name", "mia", "--attach", "url=http://127.0.0.1:1", says=["insecure-plaintext"])
    refused("drawbar-gateway", *redis, "--listen", "127.0.0.1:0", "--uploads", "127.0.0.1:0", "--artifacts", "a",
            says=["insecure-plaintext"])
    refused("drawbar-broker", *redis, "--host", "127.0.0.1", says=["insecure-plaintext"])


@test()
def without_redis_every_program_says_so_and_says_where_it_looked():
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    with Cluster(broker=False, gateway=False) as c:
        commands = {
            "broker": ["drawbar-broker", "--host", "127.0.0.1", "--gateway-port", 0, "--worker-port", 0],
            "gateway": ["drawbar-gateway", "--listen", "127.0.0.1:0", "--uploads", "127.0.0.1:0", "--artifacts",
                        os.path.join(c.directory, "a")],
            "worker": ["drawbar-worker", "--name", "mia", "--state-dir", os.path.join(c.directory, "s"),
                       "--attach", "driver=drawbar url=http://127.0.0.1:1"],
        }
        for label, (name, *words) in commands.items():
            process = c.start(f"lost-{label}", [program(name), "--redis", url, *words], wait_ready=False)
            until(lambda p=process: str(port) in p.log().partition("\n")[2], 10, f"{label} names the address")
            until(lambda p=process: "efused" in p.log(), 10, f"{label} says what is wrong")
            # It waits for Redis, or it ends with an error: it must not end as if all were well.
            check(process.alive() or process.child.returncode != 0, f"{label} ended with 0")


@test()
def a_redis_that_could_lose_jobs_is_not_used_unless_told():
    with Cluster(broker=False, gateway=False) as c:
        c.redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        process = c.start("picky", [program("drawbar-broker"), "--redis", c.redis.url, "--host", "127.0.0.1",
                                    "--gateway-port", 0, "--worker-port", 0], wait_ready=False)
        until(lambda: "noeviction" in process.log(), 10, "the broker says what is wrong")
        check(c.redis.leader() is None, "it does not lead")


@test()
def a_second_artifact_directory_of_another_drawbar_is_refused():
    with Cluster() as c:
        os.makedirs(os.path.join(c.directory, "another"))
        with open(os.path.join(c.directory, "another", ".drawbar-store"), "w", encoding="utf-8") as file:
            file.write("0" * 31 + "1\n")
        process = c.start("other", [program("drawbar-gateway"), "--redis", c.redis.url, "--listen", "127.0.0.1:0",
                                    "--uploads", "127.0.0.1:0", "--artifacts",
                                    os.path.join(c.directory, "another")], wait_ready=False)
        until(lambda: not process.alive(), 10, "the gateway ends")
        check(process.child.returncode != 0, "its exit status")
        check("share" in process.log() or "s3" in process.log(), f"the cure in {process.log()[-500:]}")


@test()
def settings_come_from_flags_then_the_environment_then_the_file():
    with Cluster(broker=False, gateway=False) as c:
        path = os.path.join(c.directory, "drawbar.ini")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"redis = {c.redis.url}\n[broker]\nhost = 127.0.0.1\ngateway-port = 0\nworker-port = 0\n")
        c.start("broker", [program("drawbar-broker"), "--config", path])
        until(c.redis.leader, 5, "the broker leads")
        status, _, err = start("drawbar-broker", "--config", path, "--worker-port", "99999")
        check(status != 0 and "99999" in err, "the flag is read before the file")
        done = subprocess.run([program("drawbar-broker"), "--config", path], capture_output=True, text=True, timeout=10,
                              env=environment(DRAWBAR_WORKER_PORT="88888"), check=False)
        check(done.returncode != 0 and "88888" in done.stderr, "the environment is read before the file")


@test()
def every_log_line_is_one_json_object_when_asked():
    import json # pylint: disable=import-outside-toplevel
    with Cluster(broker_flags=("--log-format", "json")) as c:
        c.http.submit()
        c.broker_process.stop()
        lines = [line for line in c.broker_process.log().splitlines()[1:] if not line.startswith("ready ")]
        check(lines, "there are lines")
        for line in lines:
            told = json.loads(line)
            check({"time", "level", "role", "event"} <= set(told), f"members of {line}")

