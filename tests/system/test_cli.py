"""The command line."""
import os
import signal
import subprocess
import tempfile

from harness import Cluster, Http, check, check_equal, environment, free_port, processes_with, program, until
from pictures import png_size
from registry import test


def drawbar(c, *words, limit_s=60):
    done = subprocess.run([program("drawbar"), *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=limit_s, cwd=c.directory,
                          env=environment(DRAWBAR_SERVER=f"http://{c.http.address}"), check=False)
    return done.returncode, done.stdout, done.stderr


@test(short=True)
def submit_saves_the_picture_and_tells_plain_lines_in_a_pipe():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 50")
        path = os.path.join(c.directory, "fox.png")
        status, out, err = drawbar(c, "submit", "a red fox", "-o", path, "--width", 96, "--height", 64)
        check_equal(status, 0, f"exit status ({out!r} {err!r})")
        with open(path, "rb") as file:
            check_equal(png_size(file.read()), (96, 64), "size of the picture")
        check("\r" not in out + err and "\x1b" not in out + err, "no terminal codes in a pipe")
        check("fox.png" in out + err, f"it says where: {out!r} {err!r}")


@test()
def exit_codes_tell_success_refusal_failure_and_time_out_apart():
    from fake_instance import FakeInstance # pylint: disable=import-outside-toplevel
    with Cluster() as c:
        refused, _, err = drawbar(c, "submit", "a", "--width", 65)
        check("width" in err, f"the refusal names the field: {err!r}")
        late, _, _ = drawbar(c, "submit", "a", "--timeout", 1)
        instance = FakeInstance(["fail"])
        c.closers.append(instance.close)
        c.worker("mia", attach=[instance.url])
        failed, _, err = drawbar(c, "submit", "a", "--width", 64, "--height", 64, "--steps", 1)
        check("out of memory" in err or "attempt" in err, f"the failure's reason: {err!r}")
        codes = {"refused": refused, "late": late, "failed": failed}
        check_equal(codes, {"refused": 3, "late": 4, "failed": 1}, "codes")
        gone = subprocess.run([program("drawbar"), "submit", "a"], capture_output=True, text=True, timeout=30,
                              stdin=subprocess.DEVNULL, check=False,
                              env=environment(DRAWBAR_SERVER=f"http://127.0.0.1:{free_port()}"))
        check_equal(gone.returncode, 5, "code when nobody listens")
        check("127.0.0.1" in gone.stderr, f"it names the address: {gone.stderr!r}")


@test()
def status_wait_cancel_and_workers_show_what_is():
    with Cluster() as c:
        job_id = c.http.submit()
        check("queued" in drawbar(c, "status", job_id)[1], "status of a queued job")
        status, out, _ = drawbar(c, "cancel", job_id)
        check(status == 0 and "cancelled" in out, f"cancel: {status} {out!r}")
        c.worker("mia")
        status, out, _ = drawbar(c, "workers")
        check(status == 0 and "mia" in out, f"workers: {status} {out!r}")
        done = c.http.submit()
        status, out, _ = drawbar(c, "wait", done)
        check(status == 0 and "succeeded" in out, f"wait: {status} {out!r}")
        status, _, err = drawbar(c, "status", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        check(status != 0 and err, "status of an unknown job")


@test(short=True, limit_s=90)
def up_once_draws_a_picture_says_that_it_is_simulated_and_leaves_nothing_running():
    with tempfile.TemporaryDirectory(prefix="drawbar-up.") as directory:
        path = os.path.join(directory, "demo.png")
        done = subprocess.run([program("drawbar"), "up", "--data", os.path.join(directory, "data"), "--port", "0",
                               "--once", "a red fox", "-o", path], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=80, env=environment(HOME=directory), cwd=directory, check=False)
        check_equal(done.returncode, 0, f"exit status ({done.stdout[-800:]!r} {done.stderr[-800:]!r})")
        with open(path, "rb") as file:
            check_equal(png_size(file.read()), (1024, 1024), "size of the picture")
        check("simulated" in (done.stdout + done.stderr).lower(), "it says that the picture is simulated")
        check_equal(processes_with(directory), [], "processes left")


@test(limit_s=90)
def up_ends_all_its_children_on_ctrl_c_and_finds_its_jobs_again():
    with tempfile.TemporaryDirectory(prefix="drawbar-up.") as directory:
        port = free_port()
        command = [program("drawbar"), "up", "--workers", "1", "--data", os.path.join(directory, "data"),
                   "--port", str(port)]

        def start():
            with open(os.path.join(directory, "log"), "ab") as log:
                child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory,
                                         env=environment(HOME=directory))
            until(lambda: Http(f"127.0.0.1:{port}").get("/readyz").status == 200, 20, "drawbar up is ready")
            return child
        try:
            child = start()
            client = Http(f"127.0.0.1:{port}")
            job_id = client.submit()
            client.wait(job_id, "succeeded", 30)
            child.send_signal(signal.SIGINT)
            check_equal(child.wait(30), 0, "exit status after Ctrl-C")
            check_equal(processes_with(directory), [], "processes left")
            child = start()
            check_equal(client.job(job_id)["status"], "succeeded", "status after the restart")
            check_equal(client.image(job_id).status, 200, "status of its picture")
            # A child that dies is started again.
            brokers = [pid for pid in processes_with("drawbar-broker") if has_parent(pid, child.pid)]
            check(len(brokers) == 1, f"brokers {brokers}")
            os.kill(brokers[0], signal.SIGKILL)
            # The next one watches the leader's key for a term before it leads: a submit may be answered 503 meanwhile.
            taken = until(lambda: (answer := client.post_job(width=64, height=64, steps=2)).status == 202 and answer.json,
                          30, "a submit is taken after the broker died")
            client.wait(taken["id"], "succeeded", 20)
            # The supervisor itself dies: nothing may live on.
            child.kill()
            child.wait()
            until(lambda: processes_with(directory) == [], 10, "its children are gone")
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(20)


def has_parent(pid, parent):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return int(file.read().rpartition(")")[2].split()[1]) == parent
    except OSError:
        return False
