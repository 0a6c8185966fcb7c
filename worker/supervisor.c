#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/attach.h"
#include "worker/instance_private.h"
#include "worker/port.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* -- the configuration -- */

static int
refuse(const char *setting, const char *value, const char *problem)
{
    char quoted[512];
    size_t length = strnlen(value, sizeof quoted - 1);
    for (size_t i = 0; i < length; i++) {
        quoted[i] = (char)(value[i] == '"' ? '\'' : value[i]);
    }
    quoted[length] = '\0';
    log_error("setting-refused setting=%s value=\"%s\" problem=\"%s\"", setting, quoted, problem);
    return -EINVAL;
}

/* The line itself may hold a password: its number is shown. */
static int
refuse_attach(uint32_t i, const char *wrong)
{
    char number[32];
    snprintf(number, sizeof number, "number %u", i + 1);
    return refuse("--attach", number, wrong);
}

static int
check_start(const struct supervisor_config *config)
{
    char number[32];
    if (config->start == NULL) {
        return 0;
    }
    if (strstr(config->start, "{port}") == NULL) {
        return refuse("--start", config->start,
                      "has no {port}: each instance is told where to listen");
    }
    if (strlen(config->start) >= LIMIT_INSTANCE_COMMAND / 2) {
        return refuse("--start", "", "is longer than 2047 bytes: put it into a script");
    }
    if (config->n_start == 0) {
        return refuse("--instances", "0", "must be at least 1 with --start");
    }
    if (config->base_port != 0 && config->base_port + config->n_start - 1 > UINT16_MAX) {
        snprintf(number, sizeof number, "%u", config->base_port);
        return refuse("--base-port", number, "leaves no room for all instances below 65536");
    }
    if (config->state_dir == NULL || config->state_dir[0] == '\0') {
        return refuse("--state-dir", "", "is needed with --start: pids and logs are kept there");
    }
    return 0;
}

static int
read_start(struct supervisor *self, const struct supervisor_config *config)
{
    const char *name = config->driver == NULL ? "drawbar" : config->driver;
    uint16_t ports[LIMIT_INSTANCES] = { 0 };
    self->any_port = config->base_port == 0;
    int rc = self->any_port ? ports_pick(ports, config->n_start) : 0;
    for (uint32_t i = 0; rc == 0 && i < config->n_start; i++) {
        struct instance *instance = &self->instances[i];
        const char *wrong = attach_read_driver(instance, name);
        if (wrong != NULL) {
            return refuse("--driver", name, wrong);
        }
        instance->life = LIFE_WAITING;
        instance->port = self->any_port ? ports[i] : (uint16_t)(config->base_port + i);
        snprintf(instance->name, sizeof instance->name, "instance-%u", i);
    }
    return rc;
}

static int
check_names(const struct supervisor *self)
{
    for (uint32_t i = 0; i < self->n_instances; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(self->instances[i].name, self->instances[k].name) == 0) {
                return refuse("--attach", self->instances[i].name,
                              "two instances have this name: give one another by name=");
            }
        }
    }
    return 0;
}

/* Started ones first: their number is then their index. */
static int
read_config(struct supervisor *self, const struct supervisor_config *config)
{
    uint32_t n_start = config->start == NULL ? 0 : config->n_start;
    char number[32];
    int rc = check_start(config);
    if (rc != 0) {
        return rc;
    }
    if (n_start > LIMIT_INSTANCES || config->n_attach > LIMIT_INSTANCES - n_start) {
        snprintf(number, sizeof number, "%u", n_start + config->n_attach);
        return refuse("--instances", number, "is over 16, attached ones included");
    }
    if (n_start + config->n_attach == 0) {
        return refuse("--attach", "", "or --start is needed: there is no instance to draw");
    }
    self->n_instances = n_start + config->n_attach;
    self->instances = calloc(self->n_instances, sizeof *self->instances);
    if (self->instances == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < self->n_instances; i++) {
        self->instances[i].owner = self;
        self->instances[i].index = i;
    }
    rc = n_start == 0 ? 0 : read_start(self, config);
    for (uint32_t i = 0; rc == 0 && i < config->n_attach; i++) {
        const char *wrong = attach_read(&self->instances[n_start + i], config->attach[i]);
        rc = wrong == NULL ? 0 : refuse_attach(i, wrong);
    }
    return rc ? rc : check_names(self);
}

/* -- the state directory -- */

/* Our own, kept by a lock that ends with us, so that no second agent takes our children for
 * leftovers of the first. */
static int
take_state_dir(struct supervisor *self)
{
    char path[PATH_MAX];
    if ((mkdir(self->state_dir, 0750) != 0 && errno != EEXIST) ||
        snprintf(path, sizeof path, "%s/instances", self->state_dir) >= (int)sizeof path - 64 ||
        (mkdir(path, 0750) != 0 && errno != EEXIST)) {
        int rc = errno == 0 ? -ENAMETOOLONG : -errno;
        log_error("state-dir-failed path=\"%s\" error=\"%s\"", self->state_dir, strerror(-rc));
        return rc;
    }
    snprintf(path, sizeof path, "%s/instances/lock", self->state_dir);
    self->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (self->lock_fd < 0 || flock(self->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        bool taken = errno == EWOULDBLOCK;
        int rc = -errno;
        log_error("state-dir-failed path=\"%s\" error=\"%s\"", self->state_dir,
                  taken ? "another worker uses it: give each its own --state-dir" : strerror(-rc));
        return taken ? -EINVAL : rc;
    }
    snprintf(path, sizeof path, "%s/instances", self->state_dir);
    return children_clean(path);
}

static void
on_sigchld(evutil_socket_t number, short what, void *context)
{
    (void)number;
    (void)what;
    life_look(context);
}

static int
become_parent(struct supervisor *self)
{
    int rc = take_state_dir(self);
    rc = rc ? rc : children_adopt();
    if (rc != 0) {
        return rc;
    }
    self->on_sigchld = evsignal_new(reactor_base(self->reactor), SIGCHLD, on_sigchld, self);
    return self->on_sigchld == NULL || event_add(self->on_sigchld, NULL) != 0 ? -ENOMEM : 0;
}

/* -- life -- */

static bool
all_over(const struct supervisor *self)
{
    for (uint32_t i = 0; i < self->n_instances; i++) {
        if (!life_is_over(&self->instances[i]) || lanes_busy(&self->instances[i])) {
            return false;
        }
    }
    return true;
}

/* First ends all instances, then, once more for the last of them, tells that they are gone. */
static void
on_stop_kick(void *context)
{
    struct supervisor *self = context;
    if (!self->stop_begun) {
        self->stop_begun = true;
        for (uint32_t i = 0; i < self->n_instances; i++) {
            instance_stop(&self->instances[i]);
        }
    }
    if (all_over(self) && self->stop_done != NULL) {
        reactor_fn done = self->stop_done;
        self->stop_done = NULL;
        done(self->stop_context);
    }
}

static void
copy_settings(struct supervisor *self, const struct supervisor_config *config)
{
    self->stuck_ms = config->stuck_ms > 0 ? config->stuck_ms : LIMIT_STUCK_MS;
    self->opaque_ms = config->opaque_ms > 0 ? config->opaque_ms : LIMIT_OPAQUE_MS;
    self->startup_ms = config->startup_ms > 0 ? config->startup_ms : LIMIT_STARTUP_MS;
    if (config->start != NULL) {
        self->start = strdup(config->start);
        self->state_dir = strdup(config->state_dir);
        if (self->start == NULL || self->state_dir == NULL) {
            abort(); /* out of memory */
        }
    }
}

int
supervisor_new(struct supervisor **out, struct reactor *reactor, struct http_client *http,
               const struct supervisor_config *config, const struct instance_events *events)
{
    CLEANUP(supervisor_destroy) struct supervisor *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    *self =
        (struct supervisor){ .reactor = reactor, .http = http, .events = *events, .lock_fd = -1 };
    int rc = kick_new(&self->stop_kick, reactor, on_stop_kick, self);
    rc = rc ? rc : read_config(self, config);
    if (rc != 0) {
        return rc;
    }
    copy_settings(self, config);
    rc = self->start == NULL ? 0 : become_parent(self);
    for (uint32_t i = 0; rc == 0 && i < self->n_instances; i++) {
        rc = instance_open(&self->instances[i]);
    }
    if (rc != 0) {
        return rc;
    }
    for (uint32_t i = 0; i < self->n_instances; i++) {
        instance_begin(&self->instances[i]);
    }
    *out = self;
    self = NULL;
    return 0;
}

/* SIGKILL for all, and a wait that ends. */
static void
end_children(struct supervisor *self)
{
    int64_t end_ms = clock_mono_ms() + LIMIT_CLEAN_MS;
    bool left = true;
    while (left && clock_mono_ms() < end_ms) {
        left = false;
        for (uint32_t i = 0; i < self->n_instances; i++) {
            struct child *child = self->instances[i].child;
            if (child != NULL && !child_gone(child)) {
                child_kill(child);
                left = true;
            }
        }
        if (left) {
            usleep(2000);
        }
    }
    for (uint32_t i = 0; i < self->n_instances; i++) {
        child_destroy(&self->instances[i].child);
    }
}

void
supervisor_destroy(struct supervisor **self_p)
{
    struct supervisor *self = *self_p;
    if (self == NULL) {
        return;
    }
    end_children(self);
    for (uint32_t i = 0; i < self->n_instances; i++) {
        instance_close(&self->instances[i]);
    }
    if (self->on_sigchld != NULL) {
        event_free(self->on_sigchld);
    }
    kick_destroy(&self->stop_kick);
    if (self->lock_fd >= 0) {
        close(self->lock_fd);
    }
    free(self->instances);
    free(self->start);
    free(self->state_dir);
    free(self);
    *self_p = NULL;
}

void
supervisor_stop(struct supervisor *self, reactor_fn done, void *context)
{
    assert(!self->stopping);
    self->stopping = true;
    self->stop_done = done;
    self->stop_context = context;
    kick_now(self->stop_kick);
}

void
supervisor_check_stopped(struct supervisor *self)
{
    if (self->stop_begun && all_over(self)) {
        kick_now(self->stop_kick);
    }
}

/* -- what is told -- */

static const struct instance *
at(const struct supervisor *self, uint32_t index)
{
    assert(index < self->n_instances);
    return &self->instances[index];
}

uint32_t
supervisor_count(const struct supervisor *self)
{
    return self->n_instances;
}

enum instance_state
instance_state(const struct supervisor *self, uint32_t index)
{
    return at(self, index)->state;
}

const char *
instance_name(const struct supervisor *self, uint32_t index)
{
    return at(self, index)->name;
}

bool
instance_queues(const struct supervisor *self, uint32_t index)
{
    return instance_has_feature(at(self, index), DRIVER_QUEUE);
}

const char *
instance_model(const struct supervisor *self, uint32_t index)
{
    return at(self, index)->model;
}

uint32_t
instance_max_pixels(const struct supervisor *self, uint32_t index)
{
    return at(self, index)->health.max_pixels;
}

size_t
instance_facts(const struct supervisor *self, uint32_t index, char *out, size_t size)
{
    const struct instance *instance = at(self, index);
    json_int_t step_ms = instance->usual_step_ms > 0 ? (json_int_t)instance->usual_step_ms
                                                     : (json_int_t)instance->health.last_step_ms;
    json_t *facts =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:I, s:I, s:b}", "name",
                  instance->name, "driver", instance->driver->name, "url", instance->url, "state",
                  instance_state_name(instance->state), "model", instance->model, "device",
                  instance->health.device, "simulated", instance->health.simulated, "pid",
                  instance->child == NULL ? 0 : (int)child_pid(instance->child), "restarts",
                  (int)instance->restarts, "max_pixels", (json_int_t)instance->health.max_pixels,
                  "last_step_ms", step_ms, "started", instance->life != LIFE_NONE);
    size_t length = facts == NULL ? 0 : json_dumpb(facts, out, size, JSON_COMPACT);
    json_decref(facts);
    return length <= size ? length : 0;
}
