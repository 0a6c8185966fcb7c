#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/instance_private.h"
#include "worker/message.h"
#include "worker/port.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT_LOOK_MS = 250, END_LOOK_MS = 20, LOG_LOOK_MS = 1000, COPY_BYTES = 64 * 1024 };

static void
close_fd(int *fd_p)
{
    if (*fd_p >= 0) {
        close(*fd_p);
    }
}

/* -- the log file: the process holds it open, so it is copied away and cut, not renamed -- */

static void
log_path(const struct instance *self, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/instance-%u.log", self->owner->state_dir, self->index);
}

/* Moves the newest LIMIT_INSTANCE_LOG bytes to FILE.1 once the file is longer. What is written
 * between copy and cut is lost: the bound matters more than a line. */
static void
log_bound(const struct instance *self)
{
    char path[PATH_MAX];
    char old[PATH_MAX + 2];
    struct stat info;
    log_path(self, path);
    if (stat(path, &info) != 0 || info.st_size <= LIMIT_INSTANCE_LOG) {
        return;
    }
    char block[COPY_BYTES];
    snprintf(old, sizeof old, "%s.1", path);
    CLEANUP(close_fd) int from = open(path, O_RDWR | O_CLOEXEC);
    CLEANUP(close_fd) int to = open(old, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    off_t at = info.st_size - LIMIT_INSTANCE_LOG;
    while (from >= 0 && to >= 0 && at < info.st_size) {
        ssize_t n = pread(from, block, COPY_BYTES, at);
        if (n <= 0 || write(to, block, (size_t)n) != n) {
            break;
        }
        at += n;
    }
    if (from >= 0 && ftruncate(from, 0) != 0) {
        log_warn("instance-log-not-cut path=\"%s\" error=\"%s\"", path, strerror(errno));
    }
}

/* -- start -- */

/* Replaces {port}, {index} and {device}; all are numbers, so the shell has nothing to misread.
 * False: too long. */
static bool
expand(const struct instance *self, char *out, size_t size)
{
    const struct {
        const char *word;
        uint32_t value;
    } words[] = {
        { "{port}", self->port },
        { "{index}", self->index },
        { "{device}", self->index },
    };
    size_t used = 0;
    for (const char *at = self->owner->start; *at != '\0';) {
        size_t i = 0;
        while (i < ARRAY_LENGTH(words) && strncmp(at, words[i].word, strlen(words[i].word)) != 0) {
            i++;
        }
        int n = i < ARRAY_LENGTH(words) ? snprintf(out + used, size - used, "%u", words[i].value)
                                        : snprintf(out + used, size - used, "%c", *at);
        at += i < ARRAY_LENGTH(words) ? strlen(words[i].word) : 1;
        used += (size_t)n;
        if (used >= size) {
            return false;
        }
    }
    return true;
}

static int
start(struct instance *self)
{
    char command[LIMIT_INSTANCE_COMMAND];
    char record[PATH_MAX];
    char log[PATH_MAX];
    struct child_spec spec = {
        .command = command, .record_path = record, .log_path = log, .port = self->port
    };
    if (!expand(self, command, sizeof command)) {
        return -E2BIG;
    }
    log_path(self, log);
    log_bound(self);
    snprintf(record, sizeof record, "%s/instances/%u.child", self->owner->state_dir, self->index);
    snprintf(self->url, sizeof self->url, "http://127.0.0.1:%u", self->port);
    int rc = child_start(&self->child, &spec);
    if (rc != 0) {
        return rc;
    }
    self->life = LIFE_RUNNING;
    self->killed = false;
    log_info("instance-started instance=%s pid=%d port=%u log=\"%s\"", self->name,
             (int)child_pid(self->child), self->port, log);
    timer_every_ms(self->life_timer, LOG_LOOK_MS);
    instance_came_up(self);
    return 0;
}

/* No other instance is about to listen on the port. */
static bool
is_only_ours(const struct instance *self)
{
    const struct supervisor *owner = self->owner;
    for (uint32_t i = 0; i < owner->n_instances; i++) {
        if (i != self->index && owner->instances[i].port == self->port) {
            return false;
        }
    }
    return true;
}

static void
explain_port(struct instance *self, char *holder, uint32_t size)
{
    port_holder(self->port, holder, size);
    instance_explain(self, "waits for port %u, held by %s", self->port, holder);
}

/* False: not yet, a timer is set. */
static bool
has_port(struct instance *self)
{
    char holder[96];
    int64_t now_ms = clock_mono_ms();
    if (self->port != 0 && port_is_free(self->port)) {
        if (self->port_since_ms != 0) {
            instance_set_reason(self, "");
        }
        self->port_since_ms = 0;
        return true;
    }
    if (self->owner->any_port && ports_pick(&self->port, 1) == 0 && is_only_ours(self)) {
        return true; /* somebody took the old one: any other will do */
    }
    if (self->port_since_ms == 0) {
        self->port_since_ms = now_ms;
        explain_port(self, holder, sizeof holder);
    } else if (now_ms - self->port_since_ms >= LIMIT_PORT_MS) {
        explain_port(self, holder, sizeof holder);
        log_error("instance-port-taken instance=%s port=%u holder=\"%s\" "
                  "cure=\"end it or choose another --base-port\"",
                  self->name, self->port, holder);
        self->port_since_ms = now_ms; /* said again in a minute */
        instance_set_state(self, INSTANCE_DOWN);
    }
    timer_in_ms(self->life_timer, PORT_LOOK_MS);
    return false;
}

/* -- end -- */

/* Too many ends in too short a time. */
static bool
is_crash_loop(struct instance *self)
{
    int64_t now_ms = clock_mono_ms();
    int64_t *oldest = &self->exits_ms[self->n_exits % LIMIT_CRASHES];
    *oldest = now_ms;
    self->n_exits++;
    const int64_t *first = &self->exits_ms[self->n_exits % LIMIT_CRASHES];
    return self->n_exits >= LIMIT_CRASHES && now_ms - *first <= LIMIT_CRASH_WINDOW_MS;
}

/* A process that ran well for a while starts its back-off from the beginning. */
static int64_t
next_backoff(struct instance *self)
{
    uint32_t before = self->n_exits < 2 ? 0 : (self->n_exits - 2) % LIMIT_CRASHES;
    if (self->n_exits < 2 || clock_mono_ms() - self->exits_ms[before] > LIMIT_CRASH_WINDOW_MS) {
        self->backoff_ms = LIMIT_RESTART_MIN_MS;
    }
    int64_t delay_ms = self->backoff_ms;
    self->backoff_ms *= 2;
    self->backoff_ms =
        self->backoff_ms < LIMIT_RESTART_MAX_MS ? self->backoff_ms : LIMIT_RESTART_MAX_MS;
    return delay_ms;
}

/* It ended, or could not be started: once more, unless that happened too often. Then again after a
 * long pause, once: what was wrong may have been put right meanwhile. */
static void
start_again(struct instance *self)
{
    char log[PATH_MAX];
    if (is_crash_loop(self) || self->on_trial) {
        log_path(self, log);
        log_error("instance-broken instance=%s exits=%d within_ms=%d last=\"%s\" log=\"%s\" "
                  "again_in_ms=%lld cure=\"read the end of the log; a restart of the worker tries "
                  "at once\"",
                  self->name, LIMIT_CRASHES, LIMIT_CRASH_WINDOW_MS, self->last_exit, log,
                  (long long)self->owner->broken_ms);
        instance_explain(self, "crash loop: %d exits within %d s, last: %.60s, log %s",
                         LIMIT_CRASHES, LIMIT_CRASH_WINDOW_MS / 1000, self->last_exit, log);
        self->life = LIFE_OVER;
        self->on_trial = true;
        timer_in_ms(self->life_timer, self->owner->broken_ms);
        instance_set_state(self, INSTANCE_BROKEN);
        return;
    }
    self->restarts++;
    life_begin(self, next_backoff(self));
}

/* Nothing of it lives any more. */
static void
is_gone(struct instance *self)
{
    child_destroy(&self->child);
    if (self->restart) {
        start_again(self);
        return;
    }
    self->life = LIFE_OVER;
    supervisor_check_stopped(self->owner);
}

/* SIGKILL does not help: it sits in the kernel, most likely in the driver of its device, and
 * another process on that device would fare no better. */
static void
is_unkillable(struct instance *self)
{
    log_error("instance-unkillable instance=%s pid=%d cure=\"the device is lost: reboot the host\"",
              self->name, (int)child_pid(self->child));
    child_destroy(&self->child);
    self->life = LIFE_OVER;
    if (self->restart) {
        instance_set_reason(self, "cannot be killed: its device is lost, reboot the host");
        instance_set_state(self, INSTANCE_BROKEN);
    }
    supervisor_check_stopped(self->owner);
}

/* While ENDING: SIGKILL when it is time, then on to what follows. */
static void
look_at_end(struct instance *self)
{
    int status = 0;
    int64_t waited_ms = clock_mono_ms() - self->ending_since_ms;
    bool exited = child_exited(self->child, &status);
    if (child_gone(self->child)) {
        is_gone(self);
        return;
    }
    /* A leader that ended by itself leaves nobody who could end in order. */
    bool orphaned = exited && self->restart;
    if (self->killed || orphaned || waited_ms >= LIMIT_STOP_MS) {
        child_kill(self->child); /* again each time: a family can grow while it is killed */
        self->killed = true;
    }
    if (waited_ms >= LIMIT_STOP_MS + LIMIT_KILL_MS) {
        is_unkillable(self);
        return;
    }
    timer_in_ms(self->life_timer, END_LOOK_MS);
}

static void
begin_end(struct instance *self, bool restart)
{
    self->life = LIFE_ENDING;
    self->restart = restart;
    self->ending_since_ms = clock_mono_ms();
    timer_in_ms(self->life_timer, 0);
}

static void
has_exited(struct instance *self, int status)
{
    char how[64];
    char log[PATH_MAX];
    log_path(self, log);
    exit_text(status, how, sizeof how);
    log_warn("instance-exited instance=%s pid=%d how=\"%s\" log=\"%s\"", self->name,
             (int)child_pid(self->child), how, log);
    snprintf(self->last_exit, sizeof self->last_exit, "%s", how);
    instance_explain(self, "%s, log %s", how, log);
    begin_end(self, true);
    instance_went_down(self, FAIL_INSTANCE_DIED, how);
}

static void
on_life_timer(void *context)
{
    struct instance *self = context;
    int rc = 0;
    switch (self->life) {
    case LIFE_WAITING:
        if (!has_port(self)) {
            return;
        }
        rc = start(self);
        if (rc != 0) {
            log_error("instance-start-failed instance=%s error=\"%s\"", self->name, strerror(-rc));
            snprintf(self->last_exit, sizeof self->last_exit, "cannot be started: %s",
                     strerror(-rc));
            instance_set_reason(self, self->last_exit);
            start_again(self);
        }
        return;
    case LIFE_RUNNING:
        log_bound(self);
        return;
    case LIFE_ENDING:
        look_at_end(self);
        return;
    case LIFE_OVER: /* LIMIT_BROKEN_MS have passed */
        log_info("instance-tried-again instance=%s", self->name);
        life_begin(self, 0);
        return;
    case LIFE_NONE:
        return;
    }
}

/* -- what others call -- */

void
life_begin(struct instance *self, int64_t delay_ms)
{
    if (self->life_timer == NULL &&
        timer_new(&self->life_timer, self->owner->reactor, on_life_timer, self) != 0) {
        abort(); /* out of memory */
    }
    self->life = LIFE_WAITING;
    self->port_since_ms = 0;
    timer_in_ms(self->life_timer, delay_ms);
}

void
life_restart(struct instance *self, const char *why)
{
    if (self->life != LIFE_RUNNING) {
        return; /* it is on its way already */
    }
    log_warn("instance-killed instance=%s pid=%d reason=\"%s\"", self->name,
             (int)child_pid(self->child), why);
    message_text(self->last_exit, sizeof self->last_exit, why);
    instance_set_reason(self, why);
    begin_end(self, true);
    self->killed = true; /* one that hangs does not hear SIGTERM, and its job is lost anyway */
    child_kill(self->child);
    instance_went_down(self, FAIL_INSTANCE_DIED, why);
}

void
life_stop(struct instance *self)
{
    switch (self->life) {
    case LIFE_RUNNING:
        child_terminate(self->child);
        begin_end(self, false);
        break;
    case LIFE_ENDING:
        self->restart = false;
        break;
    case LIFE_WAITING:
    case LIFE_OVER:
        timer_stop(self->life_timer);
        self->life = LIFE_OVER;
        break;
    case LIFE_NONE:
        break;
    }
}

bool
life_is_over(const struct instance *self)
{
    return self->life == LIFE_NONE || self->life == LIFE_OVER;
}

/* All zombies but the leaders': those name their groups until their families are gone. */
static void
reap_orphans(struct supervisor *owner)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (uint32_t i = 0; i < owner->n_instances; i++) {
            struct child *child = owner->instances[i].child;
            if (child != NULL && child_reaped(child, pid, status)) {
                break;
            }
        }
    }
}

void
life_look(struct supervisor *owner)
{
    bool leaders_live = true;
    int status = 0;
    for (uint32_t i = 0; i < owner->n_instances; i++) {
        struct instance *self = &owner->instances[i];
        if (self->child != NULL && child_exited(self->child, &status)) {
            leaders_live = false;
        }
    }
    if (leaders_live) {
        reap_orphans(owner);
    }
    for (uint32_t i = 0; i < owner->n_instances; i++) {
        struct instance *self = &owner->instances[i];
        if (self->life == LIFE_RUNNING && child_exited(self->child, &status)) {
            has_exited(self, status);
        } else if (self->life == LIFE_ENDING) {
            timer_in_ms(self->life_timer, 0);
        }
    }
}
