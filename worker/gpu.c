#include "worker/gpu.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "common/thread.h"
#include "worker/port.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct gpu {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* of all that is under the lock; both sides wait for it */

    /* under the lock */
    bool stopping;  /* the thread shall end */
    bool hurry;     /* the next pause is short */
    bool tried;     /* the first sample is made, or was refused */
    bool ended;     /* the thread touches nothing any more */
    bool abandoned; /* nobody waits for the thread: it frees all */
    bool has_latest;
    struct gpu_sample latest;
    uint16_t ports[LIMIT_INSTANCES];
    uint32_t n_ports;

    /* the thread's */
    char *library;
    struct nvml *nvml;
    struct gpu_sample making;
    char trouble[NVML_WHY]; /* the last one told */

    /* the loop's */
    int64_t born_ms;
    struct gpu_sample view; /* copy of the latest that a caller may look at */
    bool told_silent;
};

static void
free_all(struct gpu *self)
{
    nvml_destroy(&self->nvml);
    pthread_cond_destroy(&self->changed);
    pthread_mutex_destroy(&self->lock);
    free(self->library);
    free(self);
}

/* Waits for a change until end_ms. False: that time has come. */
static bool
wait_until(struct gpu *self, int64_t end_ms)
{
    struct timespec end = { .tv_sec = end_ms / 1000, .tv_nsec = end_ms % 1000 * 1000000 };
    return pthread_cond_timedwait(&self->changed, &self->lock, &end) != ETIMEDOUT;
}

/* -- the thread -- */

/* Who the processes are. It reads /proc, where a dying process can keep its reader waiting. */
static void
identify(struct gpu *self)
{
    struct gpu_sample *sample = &self->making;
    uint16_t ports[LIMIT_INSTANCES];
    pthread_mutex_lock(&self->lock);
    uint32_t n_ports = self->n_ports;
    memcpy(ports, self->ports, sizeof ports);
    pthread_mutex_unlock(&self->lock);
    for (uint32_t i = 0; i < sample->figures.n_processes; i++) {
        process_identify(&sample->processes[i].who, sample->figures.processes[i].pid);
        sample->processes[i].port = 0;
    }
    for (uint32_t k = 0; k < n_ports && sample->figures.n_processes > 0; k++) {
        uint64_t inode = port_listener(ports[k]);
        for (uint32_t i = 0; inode != 0 && i < sample->figures.n_processes; i++) {
            if (process_serves(&sample->processes[i].who, inode)) {
                sample->processes[i].port = ports[k];
            }
        }
    }
}

static void
tell_trouble(struct gpu *self, const char *why)
{
    if (strcmp(self->trouble, why) != 0) {
        snprintf(self->trouble, sizeof self->trouble, "%s", why);
        log_warn("gpu-refused error=\"%s\" cure=\"look at the NVIDIA driver: nvidia-smi, dmesg\"",
                 why);
    }
}

static bool
sample(struct gpu *self)
{
    char why[NVML_WHY] = "";
    self->making.begun_ms = clock_mono_ms();
    bool good = nvml_read(self->nvml, &self->making.figures, why) == 0;
    if (good) {
        identify(self);
    } else {
        tell_trouble(self, why);
    }
    pthread_mutex_lock(&self->lock);
    if (good) {
        self->trouble[0] = '\0';
        self->latest = self->making;
    }
    self->has_latest = good;
    self->tried = true;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    return good;
}

/* False: the end. */
static bool
pause_after(struct gpu *self, bool good)
{
    int64_t begun_ms = clock_mono_ms();
    int64_t end_ms = begun_ms + (good ? LIMIT_GPU_LOOK_MS : LIMIT_GPU_RETRY_MS);
    pthread_mutex_lock(&self->lock);
    while (!self->stopping && clock_mono_ms() < end_ms) {
        if (self->hurry && good) {
            end_ms = begun_ms + LIMIT_GPU_AGAIN_MS;
        }
        (void)wait_until(self, end_ms);
    }
    self->hurry = false;
    bool goes_on = !self->stopping;
    pthread_mutex_unlock(&self->lock);
    return goes_on;
}

static void
look_until_stopped(struct gpu *self)
{
    char why[NVML_WHY] = "not looked for";
    bool looked_for = self->library == NULL || strcmp(self->library, "none") != 0;
    int rc = looked_for ? nvml_new(&self->nvml, self->library, why) : -ENOENT;
    if (rc != 0) {
        log_write(rc == -ENOENT ? LOG_INFO : LOG_WARN, "gpu-facts-absent reason=\"%s\"",
                  rc == -ENOMEM ? strerror(ENOMEM) : why);
        return;
    }
    bool good = sample(self);
    if (good) {
        log_info("gpu-facts-present devices=%u", self->making.figures.n_devices);
    }
    while (pause_after(self, good)) {
        good = sample(self);
    }
    nvml_destroy(&self->nvml); /* here, where it may block */
}

static void *
thread_main(void *context)
{
    struct gpu *self = context;
    look_until_stopped(self);
    pthread_mutex_lock(&self->lock);
    self->ended = self->tried = true;
    bool abandoned = self->abandoned;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    if (abandoned) {
        free_all(self);
    }
    return NULL;
}

/* -- the loop's side -- */

int
gpu_new(struct gpu **out, const char *library)
{
    pthread_condattr_t monotonic;
    struct gpu *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->born_ms = clock_mono_ms();
    pthread_mutex_init(&self->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&self->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    self->library = library == NULL ? NULL : strdup(library);
    int rc = library != NULL && self->library == NULL
                 ? -ENOMEM
                 : thread_start(&self->thread, thread_main, self);
    if (rc != 0) {
        free_all(self);
        return rc;
    }
    *out = self;
    return 0;
}

void
gpu_destroy(struct gpu **self_p)
{
    struct gpu *self = *self_p;
    if (self == NULL) {
        return;
    }
    *self_p = NULL;
    int64_t end_ms = clock_mono_ms() + LIMIT_GPU_LEAVE_MS;
    pthread_mutex_lock(&self->lock);
    self->stopping = true;
    pthread_cond_broadcast(&self->changed);
    while (!self->ended && wait_until(self, end_ms)) {
    }
    bool ended = self->ended;
    self->abandoned = !ended;
    pthread_t thread = self->thread; /* what is abandoned may be gone with the lock */
    pthread_mutex_unlock(&self->lock);
    if (ended) {
        pthread_join(thread, NULL);
        free_all(self);
    } else {
        log_warn("gpu-thread-left cure=\"the NVIDIA driver hangs: dmesg tells, a reboot helps\"");
        pthread_detach(thread);
    }
}

void
gpu_watch_port(struct gpu *self, uint16_t port)
{
    pthread_mutex_lock(&self->lock);
    assert(self->n_ports < LIMIT_INSTANCES);
    self->ports[self->n_ports++] = port;
    pthread_mutex_unlock(&self->lock);
}

bool
gpu_wait_first(struct gpu *self, int64_t limit_ms)
{
    int64_t end_ms = clock_mono_ms() + limit_ms;
    pthread_mutex_lock(&self->lock);
    while (!self->tried && wait_until(self, end_ms)) {
    }
    bool tried = self->tried;
    pthread_mutex_unlock(&self->lock);
    return tried;
}

/* Says once that it hangs, and once that it does no longer. */
static void
tell_silent(struct gpu *self, bool silent, int64_t age_ms)
{
    if (silent && !self->told_silent) {
        log_warn("gpu-silent age_ms=%lld cure=\"the NVIDIA driver hangs: nvidia-smi, dmesg\"",
                 (long long)age_ms);
    } else if (!silent && self->told_silent) {
        log_info("gpu-answers-again");
    }
    self->told_silent = silent;
}

const struct gpu_sample *
gpu_latest(struct gpu *self)
{
    pthread_mutex_lock(&self->lock);
    bool has_latest = self->has_latest;
    bool settled = self->tried && !has_latest; /* it is absent, or refuses: that is no silence */
    if (has_latest && self->view.begun_ms != self->latest.begun_ms) {
        self->view = self->latest;
    }
    pthread_mutex_unlock(&self->lock);
    int64_t age_ms = clock_mono_ms() - (has_latest ? self->view.begun_ms : self->born_ms);
    bool silent = !settled && age_ms > LIMIT_GPU_STALE_MS;
    tell_silent(self, silent, age_ms);
    return has_latest && !silent ? &self->view : NULL;
}

void
gpu_hurry(struct gpu *self)
{
    pthread_mutex_lock(&self->lock);
    self->hurry = true;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
}
