#pragma once
/*
 * devices — which GPU each started instance gets.
 *
 * A device's number is NVML's, which is the order of the PCI bus. Instance i gets the i-th of the
 * list, and from the first again when the list ends. An empty list: nothing is chosen, instances
 * see what the agent sees.
 */
#include "worker/nvml.h"

struct devices {
    uint32_t count;
    uint32_t numbers[LIMIT_GPUS];
};

/* Reads "0,2", or "auto" (an empty list). NULL, or what is wrong with it and what to do. */
const char *devices_read(struct devices *out, const char *text);
/* The first number that no GPU has; -1: all are there. */
int64_t devices_unknown(const struct devices *self, const struct nvml_figures *figures);
/* All GPUs, in order. `visible` is the agent's own CUDA_VISIBLE_DEVICES: NULL: not set; else only
 * those, in its order. It names them by number or by "GPU-..." and ends at the first that is not
 * there, as CUDA reads it; a name of another kind (a slice of a GPU) leaves the list empty. */
void devices_choose(struct devices *out, const struct nvml_figures *figures, const char *visible);
/* The device of instance i; -1: none is chosen for it. */
int32_t devices_of(const struct devices *self, uint32_t i);
