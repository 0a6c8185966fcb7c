#pragma once
/*
 * gpu — the GPUs of this host, looked at every LIMIT_GPU_LOOK_MS: figures and who uses them.
 *
 *     gpu_new --> thread: load the library --absent--> ends; there are no figures, one line says so
 *                           `--> sample, pause, sample ... --gpu_destroy--> ends
 *
 * It has a thread of its own instead of the process's helper thread. A call into a sick driver may
 * never return; behind it no picture would be checked any more, and the helper thread could not be
 * joined, so that the agent would not end. One sample is under way at most. When it hangs, the last
 * one grows old; after LIMIT_GPU_STALE_MS there are no figures (a line says so) until it returns.
 * A thread that does not come back by LIMIT_GPU_LEAVE_MS at the end is left to the process's end.
 *
 * All functions are the loop's, and none waits but gpu_wait_first() and gpu_destroy().
 */
#include "worker/nvml.h"
#include "worker/procfs.h"

struct gpu_process {
    struct process_identity who;
    uint16_t port; /* a watched one that it serves; 0: none */
};

struct gpu_sample {
    int64_t begun_ms; /* monotonic */
    struct nvml_figures figures;
    struct gpu_process processes[LIMIT_GPU_PROCESSES]; /* to figures.processes, one for one */
};

struct gpu; /* opaque */

/* `library`: NVML's, NULL: libnvidia-ml.so.1; "none": it is not looked for. 0, -ENOMEM or -errno:
 * no thread could be started. */
int gpu_new(struct gpu **out, const char *library);
void gpu_destroy(struct gpu **self_p);
/* From the next sample on, tells which process serves what listens on the port of this host. At
 * most LIMIT_INSTANCES ports. */
void gpu_watch_port(struct gpu *self, uint16_t port);
/* Waits until the first sample is there, or it is known that none comes: a start must know the
 * devices. False: not within limit_ms. */
bool gpu_wait_first(struct gpu *self, int64_t limit_ms);
/* The last sample, borrowed until the next call; NULL: there is none, or it is too old. */
const struct gpu_sample *gpu_latest(struct gpu *self);
/* Somebody waits for a new one: the next comes after LIMIT_GPU_AGAIN_MS. */
void gpu_hurry(struct gpu *self);
