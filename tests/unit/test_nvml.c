/* What NVML tells and does not tell, on a fake of it. */
#include "common/scope.h"
#include "gpu_figures.h"
#include "worker/nvml.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

TestSuite(nvml, .init = make_figures, .fini = remove_figures, .timeout = 20);

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
