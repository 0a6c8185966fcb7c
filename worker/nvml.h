#pragma once
/*
 * nvml — NVIDIA's management library, loaded at run time: what it tells of the GPUs of this host.
 *
 * There is no build dependency: the few types and functions are declared in nvml.c. The library is
 * absent on a host without an NVIDIA driver, and an older or a virtual one lacks functions or
 * answers that it does not support a question: then that figure is NVML_UNKNOWN and no other is.
 *
 * Any call can block for as long as the driver likes. Nothing here locks or starts threads; gpu.c
 * calls it on a thread of its own. One object a process.
 */
#include "common/limits.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { NVML_UNKNOWN = -1, NVML_NAME = 96, NVML_WHY = 160 };

struct nvml_device {
    bool present; /* false: it was counted, and then did not let itself be opened */
    char name[NVML_NAME];
    char uuid[NVML_NAME];                  /* "GPU-..."; "" unknown */
    int64_t total_mib, used_mib, free_mib; /* each NVML_UNKNOWN if not told */
    int64_t busy_percent, memory_percent;  /* of the last interval: kernels ran, memory was used */
    int64_t temperature_c, power_w, limit_w; /* limit_w: where it is throttled */
};

/* A process on one device; one on two devices is there twice. */
struct nvml_process {
    uint32_t device; /* index */
    pid_t pid;       /* as the driver sees it: of the host, also in a container */
    int64_t used_mib;
};

struct nvml_figures {
    uint32_t n_devices; /* at most LIMIT_GPUS; further ones are not told */
    struct nvml_device devices[LIMIT_GPUS];
    uint32_t n_processes; /* at most LIMIT_GPU_PROCESSES */
    struct nvml_process processes[LIMIT_GPU_PROCESSES];
};

struct nvml; /* opaque */

/* Loads the library; NULL: libnvidia-ml.so.1. 0 or -ENOMEM; -ENOENT: it is not there, -ENOSYS: it
 * lacks what we cannot do without; then `why` says more, for people. */
int nvml_new(struct nvml **out, const char *library, char why[NVML_WHY]);
void nvml_destroy(struct nvml **self_p);
/* Replaces *out. 0, or -EIO: the driver refused as a whole, `why` says what; it is asked anew in
 * the next call. */
int nvml_read(struct nvml *self, struct nvml_figures *out, char why[NVML_WHY]);
