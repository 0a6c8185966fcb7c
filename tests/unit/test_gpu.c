/* What NVML tells and does not tell, on a fake of it (fake_nvml.c); which device an instance gets;
 * the wait for memory. */
#include "common/clock.h"
#include "common/scope.h"
#include "worker/devices.h"
#include "worker/gpu.h"
#include "worker/port.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char figures_path[64];

/* Replaces what the fake tells, as a whole. */
static void
tell(const char *format, ...)
{
    char temporary[80];
    va_list more;
    snprintf(temporary, sizeof temporary, "%s.new", figures_path);
    FILE *file = fopen(temporary, "w");
    va_start(more, format);
    vfprintf(file, format, more);
    va_end(more);
    fclose(file);
    cr_assert(zero(int, rename(temporary, figures_path)));
}

#define H100 "device 81559 1000 35 20 41 301600 700000 NVIDIA H100 80GB HBM3\n"
#define L4   "device 23034 500 0 0 30 16000 72000 NVIDIA L4\n"

static void
make_figures(void)
{
    snprintf(figures_path, sizeof figures_path, "/tmp/test-gpu-XXXXXX");
    int fd = mkstemp(figures_path);
    cr_assert(ge(int, fd, 0));
    close(fd);
    setenv("FAKE_NVML", figures_path, 1);
    tell(H100 L4);
}

static void
remove_figures(void)
{
    unlink(figures_path);
}

TestSuite(nvml, .init = make_figures, .fini = remove_figures, .timeout = 20);
TestSuite(gpu, .init = make_figures, .fini = remove_figures, .timeout = 40);
TestSuite(devices, .init = make_figures, .fini = remove_figures, .timeout = 20);

static struct nvml_figures
read_all(const char *library)
{
    char why[NVML_WHY] = "";
    struct nvml *nvml = NULL;
    struct nvml_figures figures;
    cr_assert(zero(int, nvml_new(&nvml, library, why)), "%s", why);
    cr_assert(zero(int, nvml_read(nvml, &figures, why)), "%s", why);
    nvml_destroy(&nvml);
    return figures;
}

Test(nvml, a_library_that_is_not_there_is_absent)
{
    char why[NVML_WHY] = "";
    struct nvml *nvml = NULL;
    cr_assert(eq(int, nvml_new(&nvml, "/nonexistent/libnvidia-ml.so.1", why), -ENOENT));
    cr_assert(eq(ptr, nvml, NULL));
    cr_assert(ne(ptr, strstr(why, "nonexistent"), NULL), "%s", why);
}

Test(nvml, a_library_without_a_function_that_is_needed_is_refused_by_its_name)
{
    char why[NVML_WHY] = "";
    struct nvml *nvml = NULL;
    cr_assert(eq(int, nvml_new(&nvml, FAKE_NVML_BROKEN, why), -ENOSYS));
    cr_assert(ne(ptr, strstr(why, "nvmlDeviceGetHandleByIndex"), NULL), "%s", why);
}

Test(nvml, tells_every_device)
{
    struct nvml_figures figures = read_all(FAKE_NVML);
    const struct nvml_device *first = &figures.devices[0];
    cr_assert(eq(u32, figures.n_devices, 2));
    cr_assert(first->present);
    cr_assert(eq(str, (char *)first->name, (char *)"NVIDIA H100 80GB HBM3"));
    cr_assert(zero(int, strncmp(first->uuid, "GPU-00001000-", 13)), "%s", first->uuid);
    cr_assert(eq(i64, first->total_mib, 81559));
    cr_assert(eq(i64, first->used_mib, 1000));
    cr_assert(eq(i64, first->free_mib, 80559));
    cr_assert(eq(i64, first->busy_percent, 35));
    cr_assert(eq(i64, first->memory_percent, 20));
    cr_assert(eq(i64, first->temperature_c, 41));
    cr_assert(eq(i64, first->power_w, 302), "rounded");
    cr_assert(eq(i64, first->limit_w, 700));
    cr_assert(eq(str, figures.devices[1].name, (char *)"NVIDIA L4"));
}

Test(nvml, an_old_library_tells_what_it_can)
{
    tell(H100 "process 0 4711 20000\n");
    struct nvml_figures figures = read_all(FAKE_NVML_OLD);
    cr_assert(eq(i64, figures.devices[0].power_w, 302));
    cr_assert(eq(i64, figures.devices[0].limit_w, NVML_UNKNOWN));
    cr_assert(eq(u32, figures.n_processes, 1), "by _v2");
    cr_assert(eq(i64, figures.processes[0].used_mib, 20000));
}

Test(nvml, a_call_that_is_refused_leaves_out_its_own_figure_and_no_other)
{
    enum { NOT_SUPPORTED = 3 };
    static const struct {
        const char *function;
        size_t at;
    } calls[] = {
        { "nvmlDeviceGetMemoryInfo", offsetof(struct nvml_device, free_mib) },
        { "nvmlDeviceGetUtilizationRates", offsetof(struct nvml_device, busy_percent) },
        { "nvmlDeviceGetTemperature", offsetof(struct nvml_device, temperature_c) },
        { "nvmlDeviceGetPowerUsage", offsetof(struct nvml_device, power_w) },
        { "nvmlDeviceGetEnforcedPowerLimit", offsetof(struct nvml_device, limit_w) },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(calls); i++) {
        tell(H100 "process 0 4711 9\nfail %s %d\n", calls[i].function, NOT_SUPPORTED);
        struct nvml_figures figures = read_all(FAKE_NVML);
        for (size_t k = 0; k < ARRAY_LENGTH(calls); k++) {
            int64_t value = 0;
            memcpy(&value, (char *)&figures.devices[0] + calls[k].at, sizeof value);
            cr_assert(eq(int, value == NVML_UNKNOWN, i == k), "%s fails: %s is %lld",
                      calls[i].function, calls[k].function, (long long)value);
        }
        cr_assert(eq(u32, figures.n_processes, 1));
    }
    tell(H100 "fail nvmlDeviceGetName 3\nfail nvmlDeviceGetUUID 3\n"
              "fail nvmlDeviceGetComputeRunningProcesses 3\nprocess 0 4711 9\n");
    struct nvml_figures figures = read_all(FAKE_NVML);
    cr_assert(eq(str, figures.devices[0].name, (char *)""));
    cr_assert(eq(str, figures.devices[0].uuid, (char *)""));
    cr_assert(zero(u32, figures.n_processes));
    cr_assert(eq(i64, figures.devices[0].free_mib, 80559));
}

Test(nvml, a_device_that_does_not_open_keeps_its_number)
{
    tell(H100 L4 "fail nvmlDeviceGetHandleByIndex:0 15\n");
    struct nvml_figures figures = read_all(FAKE_NVML);
    cr_assert(eq(u32, figures.n_devices, 2));
    cr_assert(not(figures.devices[0].present));
    cr_assert(eq(str, figures.devices[1].name, (char *)"NVIDIA L4"));
}

Test(nvml, a_driver_that_refuses_as_a_whole_is_asked_anew)
{
    char why[NVML_WHY] = "";
    struct nvml *nvml = NULL;
    struct nvml_figures figures;
    cr_assert(zero(int, nvml_new(&nvml, FAKE_NVML, why)));
    tell("fail nvmlInit 9\n");
    cr_assert(eq(int, nvml_read(nvml, &figures, why), -EIO));
    cr_assert(eq(str, (char *)why, (char *)"nvmlInit: error 9, Driver Not Loaded"));
    tell(H100 "fail nvmlDeviceGetCount 1\n");
    cr_assert(eq(int, nvml_read(nvml, &figures, why), -EIO));
    tell(H100);
    cr_assert(zero(int, nvml_read(nvml, &figures, why)));
    cr_assert(eq(u32, figures.n_devices, 1));
    nvml_destroy(&nvml);
}

Test(nvml, a_process_in_both_lists_counts_once_and_unknown_memory_is_unknown)
{
    tell(H100 L4 "process 0 10 100\nprocess 1 10 30\ndraws 0 10 120\ndraws 0 11 -1\n");
    struct nvml_figures figures = read_all(FAKE_NVML);
    cr_assert(eq(u32, figures.n_processes, 3));
    cr_assert(eq(i64, figures.processes[0].used_mib, 120));
    cr_assert(eq(int, figures.processes[1].pid, 11));
    cr_assert(eq(i64, figures.processes[1].used_mib, NVML_UNKNOWN));
    cr_assert(eq(u32, figures.processes[2].device, 1));
}

Test(nvml, more_devices_and_processes_than_there_is_room_for_are_left_out)
{
    char text[16384] = "";
    size_t used = 0;
    for (int i = 0; i < LIMIT_GPUS + 1; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, L4);
    }
    for (int i = 0; i < LIMIT_GPU_PROCESSES + 1; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "process %d %d 1\n",
                                 i % LIMIT_GPUS, i + 10);
    }
    tell("%s", text);
    struct nvml_figures figures = read_all(FAKE_NVML);
    cr_assert(eq(u32, figures.n_devices, LIMIT_GPUS));
    cr_assert(eq(u32, figures.n_processes, LIMIT_GPU_PROCESSES));
}

/* -- the thread -- */

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
        sscanf(line, "Threads: %d", &n);
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

/* -- which device -- */

Test(devices, lists_are_read_and_garbage_is_refused)
{
    struct devices devices;
    static const char *const bad[] = { "",       ",",     "0,",  ",1",
                                       "0,,1",   "a",     "0 1", "-1",
                                       "0-3",    "0,1,0", "all", "16",
                                       "auto,1", "0x1",   " 0",  "99999999999999999999" };
    cr_assert(eq(ptr, (void *)devices_read(&devices, "auto"), NULL));
    cr_assert(zero(u32, devices.count));
    cr_assert(eq(i32, devices_of(&devices, 0), -1));
    cr_assert(eq(ptr, (void *)devices_read(&devices, "3,0,15"), NULL));
    cr_assert(eq(u32, devices.count, 3));
    for (uint32_t i = 0; i < 6; i++) {
        static const int32_t wanted[] = { 3, 0, 15 };
        cr_assert(eq(i32, devices_of(&devices, i), wanted[i % 3]), "in turn");
    }
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        cr_assert(ne(ptr, (void *)devices_read(&devices, bad[i]), NULL), "\"%s\"", bad[i]);
    }
}

Test(devices, a_number_that_no_gpu_has_is_found)
{
    struct devices devices;
    struct nvml_figures figures = { .n_devices = 3 };
    figures.devices[0].present = figures.devices[2].present = true;
    devices_read(&devices, "2,0");
    cr_assert(eq(i64, devices_unknown(&devices, &figures), -1));
    devices_read(&devices, "0,3");
    cr_assert(eq(i64, devices_unknown(&devices, &figures), 3));
    devices_read(&devices, "1,0");
    cr_assert(eq(i64, devices_unknown(&devices, &figures), 1), "counted, but not there");
}

static void
check_choice(const char *visible, const char *wanted)
{
    char got[64] = "";
    struct devices devices;
    struct nvml_figures figures = { .n_devices = 4 };
    for (uint32_t i = 0; i < 4; i++) {
        figures.devices[i].present = i != 2;
        snprintf(figures.devices[i].uuid, NVML_NAME, "GPU-%ua-b", i);
    }
    devices_choose(&devices, &figures, visible);
    for (uint32_t i = 0; i < devices.count; i++) {
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%u", i > 0 ? "," : "",
                 devices.numbers[i]);
    }
    cr_assert(eq(str, (char *)got, (char *)wanted), "%s", visible == NULL ? "(unset)" : visible);
}

Test(devices, without_a_list_all_are_used_that_the_agent_may_see)
{
    check_choice(NULL, "0,1,3");
    check_choice("3,0", "3,0");
    check_choice("1", "1");
    check_choice("GPU-3a,GPU-0a-b", "3,0");
    check_choice(" 1, 0", "1,0");
    check_choice("", "");
    check_choice("-1", "");
    check_choice("NoDevFiles", "");
    check_choice("MIG-1234", "");
    check_choice("GPU-", "");
    check_choice("1,7,0", "1");
    check_choice("1,1,0", "1");
    check_choice("2", "");
    check_choice("1x", "");
}
