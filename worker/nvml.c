#include "worker/nvml.h"
#include "common/scope.h"
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- what NVML's interface is; its binary layout has been the same since it was published -- */

enum {
    NVML_OK = 0,
    NVML_TEMPERATURE_GPU = 0,
    NVML_MIB = 1024 * 1024,
    NVML_MILLIWATTS = 1000,
};

typedef void *device_t;
struct memory {
    unsigned long long total, free, used; /* bytes */
};
struct utilization {
    unsigned int gpu, memory; /* percent */
};
struct process_info {
    unsigned int pid;
    unsigned long long used; /* bytes; all ones: not told */
    unsigned int gpu_instance, compute_instance;
};

typedef int (*plain_fn)(void);
typedef const char *(*error_fn)(int);
typedef int (*count_fn)(unsigned int *);
typedef int (*handle_fn)(unsigned int, device_t *);
typedef int (*text_fn)(device_t, char *, unsigned int);
typedef int (*memory_fn)(device_t, struct memory *);
typedef int (*utilization_fn)(device_t, struct utilization *);
typedef int (*temperature_fn)(device_t, int, unsigned int *);
typedef int (*number_fn)(device_t, unsigned int *);
typedef int (*processes_fn)(device_t, unsigned int *, struct process_info *);

/* What is called; a NULL one is not there. */
struct table {
    plain_fn init, shutdown;
    error_fn error_text;
    count_fn count;
    handle_fn handle;
    text_fn name, uuid;
    memory_fn memory;
    utilization_fn utilization;
    temperature_fn temperature;
    number_fn power, power_limit;
    processes_fn compute, graphics;
};

struct nvml {
    void *library;
    bool open; /* between init and shutdown */
    struct table call;
};

/* A function under its names, the newest first. */
struct symbol {
    size_t at; /* in struct table */
    bool needed;
    const char *names[2];
};

/* -- load -- */

static const struct symbol symbols[] = {
    { offsetof(struct table, init), true, { "nvmlInit_v2", "nvmlInit" } },
    { offsetof(struct table, shutdown), true, { "nvmlShutdown", NULL } },
    { offsetof(struct table, count), true, { "nvmlDeviceGetCount_v2", "nvmlDeviceGetCount" } },
    { offsetof(struct table, handle),
      true,
      { "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex" } },
    { offsetof(struct table, error_text), false, { "nvmlErrorString", NULL } },
    { offsetof(struct table, name), false, { "nvmlDeviceGetName", NULL } },
    { offsetof(struct table, uuid), false, { "nvmlDeviceGetUUID", NULL } },
    { offsetof(struct table, memory), false, { "nvmlDeviceGetMemoryInfo", NULL } },
    { offsetof(struct table, utilization), false, { "nvmlDeviceGetUtilizationRates", NULL } },
    { offsetof(struct table, temperature), false, { "nvmlDeviceGetTemperature", NULL } },
    { offsetof(struct table, power), false, { "nvmlDeviceGetPowerUsage", NULL } },
    { offsetof(struct table, power_limit), false, { "nvmlDeviceGetEnforcedPowerLimit", NULL } },
    /* The name without a number has another layout: it is none of these. */
    { offsetof(struct table, compute),
      false,
      { "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2" } },
    { offsetof(struct table, graphics),
      false,
      { "nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2" } },
};

static int
load_symbols(struct nvml *self, char why[NVML_WHY])
{
    for (size_t i = 0; i < ARRAY_LENGTH(symbols); i++) {
        const struct symbol *symbol = &symbols[i];
        void *found = NULL;
        for (size_t k = 0; k < ARRAY_LENGTH(symbol->names) && found == NULL; k++) {
            found = symbol->names[k] == NULL ? NULL : dlsym(self->library, symbol->names[k]);
        }
        if (found == NULL && symbol->needed) {
            snprintf(why, NVML_WHY, "the library has no %s", symbol->names[0]);
            return -ENOSYS;
        }
        /* All pointers are of one size by POSIX, which dlsym needs as well. */
        memcpy((char *)&self->call + symbol->at, &found, sizeof found);
    }
    return 0;
}

int
nvml_new(struct nvml **out, const char *library, char why[NVML_WHY])
{
    CLEANUP(nvml_destroy) struct nvml *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->library = dlopen(library == NULL ? "libnvidia-ml.so.1" : library, RTLD_NOW | RTLD_LOCAL);
    if (self->library == NULL) {
        const char *said = dlerror();
        snprintf(why, NVML_WHY, "%s", said == NULL ? "it cannot be loaded" : said);
        return -ENOENT;
    }
    int rc = load_symbols(self, why);
    if (rc != 0) {
        return rc;
    }
    *out = self;
    self = NULL;
    return 0;
}

static void
close_driver(struct nvml *self)
{
    if (self->open) {
        (void)self->call.shutdown(); /* nothing could be done about it */
        self->open = false;
    }
}

void
nvml_destroy(struct nvml **self_p)
{
    struct nvml *self = *self_p;
    if (self == NULL) {
        return;
    }
    close_driver(self);
    if (self->library != NULL) {
        dlclose(self->library);
    }
    free(self);
    *self_p = NULL;
}

/* -- read -- */

static int
refused(struct nvml *self, const char *what, int code, char why[NVML_WHY])
{
    const char *text = self->call.error_text == NULL ? NULL : self->call.error_text(code);
    snprintf(why, NVML_WHY, "%s: error %d%s%s", what, code, text == NULL ? "" : ", ",
             text == NULL ? "" : text);
    close_driver(self); /* the driver may have been loaded anew: begin anew as well */
    return -EIO;
}

static void
read_text(text_fn fn, device_t device, char out[NVML_NAME])
{
    out[0] = '\0';
    if (fn == NULL || fn(device, out, NVML_NAME) != NVML_OK) {
        out[0] = '\0';
    }
    out[NVML_NAME - 1] = '\0';
}

static int64_t
read_number(number_fn fn, device_t device, int64_t unit)
{
    unsigned int value = 0;
    return fn != NULL && fn(device, &value) == NVML_OK ? ((int64_t)value + unit / 2) / unit
                                                       : NVML_UNKNOWN;
}

static void
read_device(const struct nvml *self, device_t device, struct nvml_device *out)
{
    const struct table *call = &self->call;
    struct memory memory = { 0 };
    struct utilization busy = { 0 };
    unsigned int degrees = 0;
    read_text(call->name, device, out->name);
    read_text(call->uuid, device, out->uuid);
    out->total_mib = out->used_mib = out->free_mib = NVML_UNKNOWN;
    out->busy_percent = out->memory_percent = out->temperature_c = NVML_UNKNOWN;
    if (call->memory != NULL && call->memory(device, &memory) == NVML_OK) {
        out->total_mib = (int64_t)(memory.total / NVML_MIB);
        out->used_mib = (int64_t)(memory.used / NVML_MIB);
        out->free_mib = (int64_t)(memory.free / NVML_MIB);
    }
    if (call->utilization != NULL && call->utilization(device, &busy) == NVML_OK) {
        out->busy_percent = busy.gpu;
        out->memory_percent = busy.memory;
    }
    if (call->temperature != NULL &&
        call->temperature(device, NVML_TEMPERATURE_GPU, &degrees) == NVML_OK) {
        out->temperature_c = degrees;
    }
    out->power_w = read_number(call->power, device, NVML_MILLIWATTS);
    out->limit_w = read_number(call->power_limit, device, NVML_MILLIWATTS);
}

/* One that computes and draws is in both lists, with the same memory. */
static void
add_process(struct nvml_figures *out, uint32_t device, const struct process_info *info)
{
    int64_t used_mib = info->used == ~0ULL ? NVML_UNKNOWN : (int64_t)(info->used / NVML_MIB);
    for (uint32_t i = 0; i < out->n_processes; i++) {
        struct nvml_process *known = &out->processes[i];
        if (known->device == device && known->pid == (pid_t)info->pid) {
            known->used_mib = known->used_mib > used_mib ? known->used_mib : used_mib;
            return;
        }
    }
    if (out->n_processes < LIMIT_GPU_PROCESSES) {
        out->processes[out->n_processes++] = (struct nvml_process){ .device = device,
                                                                    .pid = (pid_t)info->pid,
                                                                    .used_mib = used_mib };
    }
}

static void
read_processes(processes_fn fn, device_t device, uint32_t index, struct nvml_figures *out)
{
    struct process_info infos[LIMIT_GPU_PROCESSES];
    unsigned int n = LIMIT_GPU_PROCESSES;
    if (fn == NULL || fn(device, &n, infos) != NVML_OK) {
        return;
    }
    for (unsigned int i = 0; i < n && i < LIMIT_GPU_PROCESSES; i++) {
        add_process(out, index, &infos[i]);
    }
}

int
nvml_read(struct nvml *self, struct nvml_figures *out, char why[NVML_WHY])
{
    unsigned int count = 0;
    *out = (struct nvml_figures){ 0 };
    int code = self->open ? NVML_OK : self->call.init();
    if (code != NVML_OK) {
        return refused(self, "nvmlInit", code, why);
    }
    self->open = true;
    code = self->call.count(&count);
    if (code != NVML_OK) {
        return refused(self, "nvmlDeviceGetCount", code, why);
    }
    out->n_devices = count < LIMIT_GPUS ? count : LIMIT_GPUS;
    for (uint32_t i = 0; i < out->n_devices; i++) {
        device_t device = NULL;
        out->devices[i].present = self->call.handle(i, &device) == NVML_OK;
        if (out->devices[i].present) {
            read_device(self, device, &out->devices[i]);
            read_processes(self->call.compute, device, i, out);
            read_processes(self->call.graphics, device, i, out);
        }
    }
    return 0;
}
