#include "common/clock.h"
#include "common/log.h"
#include "worker/instance_private.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOLDERS_TOLD = 3 };

/* -- where it is -- */

/* The port of a server on this host; 0: it is on another. */
static uint16_t
local_port(const char *url)
{
    char host[LIMIT_URL];
    const char *start = strstr(url, "//");
    start = start == NULL ? url : start + 2;
    size_t length = strcspn(start, "/?#");
    snprintf(host, sizeof host, "%.*s", (int)length, start);
    char *colon = strrchr(host, ':');
    long port = strncmp(url, "https", 5) == 0 ? 443 : 80;
    if (colon != NULL && strchr(colon, ']') == NULL) {
        port = strtol(colon + 1, NULL, 10);
        *colon = '\0';
    }
    char *name = host[0] == '[' ? host + 1 : host;
    name[strcspn(name, "]")] = '\0';
    bool local = strcmp(name, "localhost") == 0 || host_is_loopback(name);
    return local && port > 0 && port <= UINT16_MAX ? (uint16_t)port : 0;
}

void
instance_gpu_watch(struct instance *self)
{
    uint16_t port = self->life == LIFE_NONE ? local_port(self->url) : 0;
    if (port != 0) {
        self->port = port;
        gpu_watch_port(self->owner->gpu, port);
    }
}

char *const *
instance_gpu_variables(const struct instance *self, char room[][GPU_VARIABLE],
                       char *out[GPU_VARIABLES])
{
    size_t n = 0;
    if (self->device >= 0) {
        /* CUDA's own order is by speed. A number and not a UUID: some servers read it as one. */
        snprintf(room[n], GPU_VARIABLE, "CUDA_DEVICE_ORDER=PCI_BUS_ID");
        out[n] = room[n];
        n++;
        snprintf(room[n], GPU_VARIABLE, "CUDA_VISIBLE_DEVICES=%d", self->device);
        out[n] = room[n];
        n++;
    }
    out[n] = NULL;
    return out;
}

/* -- what it uses -- */

static bool
is_of(const struct instance *self, const struct gpu_process *process)
{
    if (self->life == LIFE_NONE) {
        return self->port != 0 && process->port == self->port;
    }
    return self->child != NULL && family_has(child_family(self->child), &process->who);
}

bool
instance_gpu_use(const struct instance *self, struct gpu_use *out)
{
    const struct gpu_sample *sample = gpu_latest(self->owner->gpu);
    int64_t used_mib[LIMIT_GPUS];
    if (sample == NULL) {
        return false;
    }
    *out = (struct gpu_use){ .device = self->device, .used_mib = NVML_UNKNOWN };
    for (uint32_t i = 0; i < LIMIT_GPUS; i++) {
        used_mib[i] = NVML_UNKNOWN;
    }
    for (uint32_t i = 0; i < sample->figures.n_processes; i++) {
        const struct nvml_process *process = &sample->figures.processes[i];
        int64_t *used = &used_mib[process->device];
        if (is_of(self, &sample->processes[i])) {
            if (process->used_mib != NVML_UNKNOWN) {
                *used = *used == NVML_UNKNOWN ? process->used_mib : *used + process->used_mib;
            }
            if (self->device < 0 && (out->device < 0 || *used > used_mib[out->device])) {
                out->device = (int32_t)process->device; /* the one where it uses most */
            }
        }
    }
    out->used_mib = out->device < 0 ? NVML_UNKNOWN : used_mib[out->device];
    return out->device >= 0;
}

void
instance_gpu_look(struct instance *self)
{
    struct gpu_use use;
    if (instance_gpu_use(self, &use) && use.used_mib > self->seen_mib) {
        self->seen_mib = use.used_mib;
    }
}

/* -- the wait for memory -- */

static int64_t
needed_mib(const struct instance *self)
{
    return self->owner->memory_mib > 0 ? self->owner->memory_mib : self->seen_mib;
}

/* What others of ours on its device have yet to take: they have begun and are not ready. */
static int64_t
promised_mib(const struct instance *self)
{
    const struct supervisor *owner = self->owner;
    int64_t promised = 0;
    for (uint32_t i = 0; i < owner->n_instances; i++) {
        const struct instance *other = &owner->instances[i];
        struct gpu_use use;
        if (other != self && other->device == self->device && other->life == LIFE_RUNNING &&
            !other->was_ready && instance_gpu_use(other, &use)) {
            int64_t missing = needed_mib(other) - (use.used_mib > 0 ? use.used_mib : 0);
            promised += missing > 0 ? missing : 0;
        }
    }
    return promised;
}

/* The next largest holder on the device after the one at `before` (-1: the largest). -1: none. */
static int64_t
next_holder(const struct nvml_figures *figures, uint32_t device, int64_t before)
{
    int64_t best = -1;
    for (uint32_t i = 0; i < figures->n_processes; i++) {
        const struct nvml_process *process = &figures->processes[i];
        const struct nvml_process *last = before < 0 ? NULL : &figures->processes[before];
        bool told = last != NULL && (process->used_mib > last->used_mib ||
                                     (process->used_mib == last->used_mib && i <= before));
        if (process->device == device && !told &&
            (best < 0 || process->used_mib > figures->processes[best].used_mib)) {
            best = i;
        }
    }
    return best;
}

/* "pid 4711 (python3) 40000 MiB, ...", the largest first. */
static void
holders_write(const struct gpu_sample *sample, uint32_t device, char *out, size_t size)
{
    size_t used = 0;
    int64_t at = -1;
    for (int n = 0; n < HOLDERS_TOLD && used < size; n++) {
        at = next_holder(&sample->figures, device, at);
        if (at < 0) {
            break;
        }
        const struct nvml_process *process = &sample->figures.processes[at];
        const char *name = sample->processes[at].who.name;
        char memory[32] = "memory unknown";
        if (process->used_mib != NVML_UNKNOWN) {
            snprintf(memory, sizeof memory, "%lld MiB", (long long)process->used_mib);
        }
        used += (size_t)snprintf(out + used, size - used, "%spid %d (%s) %s", n == 0 ? "" : ", ",
                                 (int)process->pid, name[0] == '\0' ? "?" : name, memory);
    }
    if (used == 0) {
        snprintf(out, size, "nobody that NVML shows");
    }
    for (size_t i = 0; out[i] != '\0'; i++) {
        out[i] = (char)(out[i] == '"' ? '\'' : out[i]); /* the log's own quotes end where we say */
    }
}

static void
tell_wait(struct instance *self, const struct gpu_sample *sample, int64_t free_mib)
{
    char holders[112];
    char reason[256]; /* cut when it is set */
    int64_t now_ms = clock_mono_ms();
    bool over = now_ms - self->memory_since_ms >= self->owner->memory_ms;
    holders_write(sample, (uint32_t)self->device, holders, sizeof holders);
    snprintf(reason, sizeof reason, "waits for %lld MiB on GPU %d: %lld free; holders: %s",
             (long long)needed_mib(self), self->device, (long long)free_mib, holders);
    instance_set_reason(self, reason);
    if (over || !self->memory_told) {
        log_write(over ? LOG_ERROR : LOG_INFO,
                  "instance-memory-taken instance=%s device=%d needed_mib=%lld free_mib=%lld "
                  "holders=\"%s\" cure=\"end them, or choose other --devices\"",
                  self->name, self->device, (long long)needed_mib(self), (long long)free_mib,
                  holders);
        self->memory_told = true;
    }
    if (over) {
        self->memory_since_ms = now_ms; /* said again after as long */
        instance_set_state(self, INSTANCE_DOWN);
    }
}

void
instance_gpu_wait_anew(struct instance *self)
{
    self->memory_since_ms = 0;
    self->memory_told = false;
}

/* NVML_UNKNOWN: not told, or the device has gone since it was chosen. */
static int64_t
free_on(const struct gpu_sample *sample, int32_t device)
{
    const struct nvml_device *found = &sample->figures.devices[device];
    return found->present ? found->free_mib : NVML_UNKNOWN;
}

bool
instance_gpu_has_memory(struct instance *self)
{
    bool asks = self->device >= 0 && needed_mib(self) > 0;
    const struct gpu_sample *sample = asks ? gpu_latest(self->owner->gpu) : NULL;
    int64_t free_mib = sample == NULL ? NVML_UNKNOWN : free_on(sample, self->device);
    if (free_mib == NVML_UNKNOWN) {
        return true; /* nothing is known, or the driver hangs: the instance finds out itself */
    }
    if (self->memory_since_ms == 0) {
        self->memory_since_ms = clock_mono_ms();
    }
    /* An older one may still count what the last process of this instance held. */
    if (sample->begun_ms >= self->memory_since_ms - LIMIT_GPU_AGAIN_MS) {
        free_mib -= promised_mib(self);
        if (free_mib >= needed_mib(self)) {
            if (self->memory_told) {
                instance_set_reason(self, "");
            }
            return true;
        }
        tell_wait(self, sample, free_mib > 0 ? free_mib : 0);
    }
    gpu_hurry(self->owner->gpu);
    return false;
}
