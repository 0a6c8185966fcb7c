/* The thread that asks NVML, on a fake of it, and the wait for memory. */
#include "common/clock.h"
#include "common/scope.h"
#include "gpu_figures.h"
#include "worker/gpu.h"
#include "worker/instance.h"
#include "worker/port.h"
#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(gpu, .init = make_figures, .fini = remove_figures, .timeout = 40);

static const struct gpu_sample *
next_sample(struct gpu *gpu, int64_t after_ms, int64_t limit_ms)
{
    const struct gpu_sample *sample = NULL;
    for (int64_t end_ms = clock_mono_ms() + limit_ms; clock_mono_ms() < end_ms; usleep(5000)) {
        sample = gpu_latest(gpu);
        if (sample != NULL && sample->begun_ms > after_ms) {
            return sample;
        }
    }
    return NULL;
}

Test(gpu, without_the_library_there_are_no_figures_and_the_start_waits_for_none)
{
    struct gpu *gpu = NULL;
    static const char *const names[] = { "/nonexistent/libnvidia-ml.so.1", "none",
                                         FAKE_NVML_BROKEN };
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        int64_t start_ms = clock_mono_ms();
        cr_assert(zero(int, gpu_new(&gpu, names[i])));
        cr_assert(gpu_wait_first(gpu, 5000));
        cr_assert(eq(ptr, (void *)gpu_latest(gpu), NULL));
        gpu_destroy(&gpu);
        cr_assert(eq(ptr, gpu, NULL));
        cr_assert(lt(i64, clock_mono_ms() - start_ms, 3000));
    }
}

Test(gpu, samples_follow_each_other_and_sooner_when_somebody_waits)
{
    struct gpu *gpu = NULL;
    cr_assert(zero(int, gpu_new(&gpu, FAKE_NVML)));
    cr_assert(gpu_wait_first(gpu, 5000));
    const struct gpu_sample *sample = gpu_latest(gpu);
    cr_assert(ne(ptr, (void *)sample, NULL));
    int64_t first_ms = sample->begun_ms;
    tell(L4);
    sample = next_sample(gpu, first_ms, 10000);
    cr_assert(ne(ptr, (void *)sample, NULL));
    cr_assert(eq(u32, sample->figures.n_devices, 1));
    cr_assert(ge(i64, sample->begun_ms - first_ms, LIMIT_GPU_LOOK_MS));
    int64_t second_ms = sample->begun_ms;
    gpu_hurry(gpu);
    sample = next_sample(gpu, second_ms, 10000);
    cr_assert(ne(ptr, (void *)sample, NULL));
    cr_assert(ge(i64, sample->begun_ms - second_ms, LIMIT_GPU_AGAIN_MS));
    cr_assert(lt(i64, sample->begun_ms - second_ms, LIMIT_GPU_LOOK_MS));
    gpu_destroy(&gpu);
}

Test(gpu, a_driver_that_hangs_holds_nobody_up_and_its_last_figures_grow_old)
{
    struct gpu *gpu = NULL;
    cr_assert(zero(int, gpu_new(&gpu, FAKE_NVML)));
    cr_assert(gpu_wait_first(gpu, 5000));
    tell("hang\n");
    int64_t first_ms = gpu_latest(gpu)->begun_ms;
    int64_t slowest_ms = 0;
    while (clock_mono_ms() < first_ms + LIMIT_GPU_STALE_MS + 500) {
        int64_t start_ms = clock_mono_ms();
        const struct gpu_sample *sample = gpu_latest(gpu);
        int64_t end_ms = clock_mono_ms();
        if (end_ms <= first_ms + LIMIT_GPU_STALE_MS) {
            cr_assert(ne(ptr, (void *)sample, NULL));
        } else if (start_ms > first_ms + LIMIT_GPU_STALE_MS + LIMIT_GPU_LOOK_MS) {
            cr_assert(eq(ptr, (void *)sample, NULL));
        }
        slowest_ms = end_ms - start_ms > slowest_ms ? end_ms - start_ms : slowest_ms;
        usleep(20000);
    }
    cr_assert(lt(i64, slowest_ms, LIMIT_GPU_LEAVE_MS));
    tell("hang\n");
    while (gpu_latest(gpu) != NULL) { /* one sample may have been begun before the hang */
        usleep(20000);
    }
    tell(L4);
    cr_assert(ne(ptr, (void *)next_sample(gpu, first_ms, 5000), NULL), "and it comes back");
    gpu_destroy(&gpu);
}

static int
count_threads(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    int n = 0;
    while (n == 0 && fgets(line, sizeof line, status) != NULL) {
        n = strncmp(line, "Threads:", 8) == 0 ? (int)strtol(line + 8, NULL, 10) : 0;
    }
    fclose(status);
    return n;
}

Test(gpu, a_thread_that_hangs_is_left_behind_in_time_and_ends_later_by_itself)
{
    struct gpu *gpu = NULL;
    int before = count_threads();
    tell("hang\n");
    cr_assert(zero(int, gpu_new(&gpu, FAKE_NVML)));
    cr_assert(not(gpu_wait_first(gpu, 100)));
    cr_assert(eq(ptr, (void *)gpu_latest(gpu), NULL));
    int64_t start_ms = clock_mono_ms();
    gpu_destroy(&gpu);
    cr_assert(ge(i64, clock_mono_ms() - start_ms, LIMIT_GPU_LEAVE_MS));
    cr_assert(lt(i64, clock_mono_ms() - start_ms, LIMIT_GPU_LEAVE_MS + 3000));
    cr_assert(eq(int, count_threads(), before + 1));
    tell(L4); /* and now it frees what was left to it */
    for (start_ms = clock_mono_ms(); count_threads() > before; usleep(5000)) {
        cr_assert(lt(i64, clock_mono_ms() - start_ms, 5000));
    }
}

/* A process that holds a listening socket, or whose parent does; both are in *group. */
static pid_t
start_server(uint16_t port, bool by_its_child, pid_t *group)
{
    int told[2];
    pid_t user = 0;
    cr_assert(zero(int, pipe(told)));
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_port = htons(port),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0) {
            _exit(1);
        }
        pid_t child = by_its_child ? fork() : getpid();
        if (child == 0) {
            execlp("sleep", "sleep", "1000", (char *)NULL);
        }
        (void)!write(told[1], &child, sizeof child);
        for (;;) {
            pause();
        }
    }
    cr_assert(eq(sz, read(told[0], &user, sizeof user), sizeof user));
    close(told[0]);
    close(told[1]);
    *group = pid;
    return user;
}

Test(gpu, tells_which_process_serves_a_port_also_one_that_its_server_started)
{
    struct gpu *gpu = NULL;
    uint16_t ports[3];
    cr_assert(zero(int, ports_pick(ports, 3)));
    pid_t groups[2];
    pid_t alone = start_server(ports[0], false, &groups[0]);
    pid_t worker = start_server(ports[1], true, &groups[1]);
    tell(H100 "process 0 %d 500\nprocess 0 %d 600\nprocess 0 %d 5\n", (int)alone, (int)worker,
         (int)getppid());
    cr_assert(zero(int, gpu_new(&gpu, FAKE_NVML)));
    for (int i = 0; i < 3; i++) {
        gpu_watch_port(gpu, ports[i]);
    }
    gpu_hurry(gpu);
    const struct gpu_sample *sample = next_sample(gpu, clock_mono_ms(), 5000);
    cr_assert(ne(ptr, (void *)sample, NULL));
    cr_assert(eq(int, sample->processes[0].port, ports[0]));
    cr_assert(eq(int, sample->processes[1].port, ports[1]));
    cr_assert(zero(int, sample->processes[2].port));
    cr_assert(eq(str, (char *)sample->processes[1].who.name, (char *)"sleep"));
    gpu_destroy(&gpu);
    kill(-groups[0], SIGKILL);
    kill(-groups[1], SIGKILL);
}

/* -- the wait for memory; more of it is in tests/system/test_gpu.py -- */

static int
remove_one(const char *path, const struct stat *stat, int kind, struct FTW *where)
{
    (void)stat;
    (void)kind;
    (void)where;
    return remove(path);
}

struct turning {
    struct reactor *reactor;
    enum instance_state wanted;
};

static void
on_state(void *context, uint32_t index, enum instance_state state)
{
    struct turning *self = context;
    (void)index;
    if (state == self->wanted) {
        reactor_stop(self->reactor, 0);
    }
}

static void
too_late(void *context)
{
    struct turning *self = context;
    reactor_stop(self->reactor, -ETIMEDOUT);
}

Test(gpu, an_instance_without_memory_is_down_at_the_limit_and_is_started_when_there_is_some)
{
    char directory[] = "/tmp/test-gpu-state-XXXXXX";
    char facts[1024];
    struct turning turning = { .wanted = INSTANCE_DOWN };
    struct http_client *http = NULL;
    struct timer *limit = NULL;
    struct supervisor *supervisor = NULL;
    cr_assert(ne(ptr, mkdtemp(directory), NULL));
    tell("device 1000 600 0 0 0 0 0 Small\nprocess 0 %d 590\n", (int)getpid());
    cr_assert(zero(int, reactor_new(&turning.reactor, false)));
    cr_assert(zero(int, http_client_new(&http, turning.reactor)));
    cr_assert(zero(int, timer_new(&limit, turning.reactor, too_late, &turning)));
    struct instance_events events = { .on_state = on_state, .context = &turning };
    struct supervisor_config config = { .start = ": {port}; sleep 1000",
                                        .n_start = 1,
                                        .state_dir = directory,
                                        .nvml = FAKE_NVML,
                                        .memory_mib = 1001,
                                        .memory_ms = 900 };
    cr_assert(
        eq(int, supervisor_new(&supervisor, turning.reactor, http, &config, &events), -EINVAL),
        "more than the GPU has");
    config.memory_mib = 401;
    cr_assert(zero(int, supervisor_new(&supervisor, turning.reactor, http, &config, &events)));
    int64_t start_ms = clock_mono_ms();
    timer_in_ms(limit, 5000);
    cr_assert(zero(int, reactor_run(turning.reactor)));
    cr_assert(ge(i64, clock_mono_ms() - start_ms, config.memory_ms));
    size_t length = instance_facts(supervisor, 0, facts, sizeof facts - 1);
    facts[length] = '\0';
    cr_assert(ne(ptr, strstr(facts, "waits for 401 MiB on GPU 0: 400 free"), NULL), "%s", facts);
    cr_assert(ne(ptr, strstr(facts, "(test_gpu) 590 MiB"), NULL), "%s", facts);
    tell("device 1000 599 0 0 0 0 0 Small\n");
    turning.wanted = INSTANCE_STARTING;
    timer_in_ms(limit, 5000);
    cr_assert(zero(int, reactor_run(turning.reactor)));
    supervisor_destroy(&supervisor);
    timer_destroy(&limit);
    http_client_destroy(&http);
    reactor_destroy(&turning.reactor);
    cr_assert(zero(int, nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS)));
}
