#include "worker/options.h"
#include "common/reactor.h"
#include "common/redis_url.h"
#include "common/scope.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int
mistake(const char *what, const char *cure)
{
    fprintf(stderr, "drawbar-worker: %s; %s\n", what, cure);
    return -EINVAL;
}

static int
check_redis(const char *text, bool insecure_plaintext)
{
    struct redis_url url;
    const char *why = "";
    if (redis_url_parse(&url, text, &why) != 0) {
        return mistake("--redis: this is no address of a Redis", why);
    }
    if (!redis_url_is_loopback(&url) && !insecure_plaintext) {
        return mistake("--redis: the connection to another host would not be encrypted",
                       "tunnel it (stunnel, WireGuard) or give --insecure-plaintext");
    }
    return 0;
}

/* The host's name, unless one is given; it is a Redis hash field, a file name and a metric's label.
 */
static int
check_name(struct options *self, const char *given)
{
    char host[HOST_NAME_MAX + 1] = "";
    if (given == NULL && gethostname(host, sizeof host - 1) != 0) {
        return mistake("--name: this host has no name", "give --name");
    }
    const char *name = given == NULL ? host : given;
    size_t length = strlen(name);
    size_t valid =
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_");
    if (length == 0 || length > LIMIT_WORKER_NAME || valid != length || name[0] == '.') {
        return mistake(
            "--name: a worker's name is 1 to 64 letters, digits, '.', '-' or '_' and does "
            "not begin with '.'",
            "give another --name");
    }
    memcpy(self->name, name, length + 1);
    return 0;
}

/* Makes the directory and those above it. 0 or -errno. */
static int
make_directories(char *path)
{
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash != NULL) {
            *slash = '\0';
        }
        int rc = mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -errno;
        if (slash == NULL) {
            return rc != 0 ? rc : (access(path, W_OK | X_OK) == 0 ? 0 : -errno);
        }
        *slash = '/';
        if (rc != 0 && rc != -EACCES && rc != -EROFS) { /* what is above may be others' */
            return rc;
        }
    }
}

/* A directory of this worker alone: pids of another's children in it would be killed at start. */
static int
check_state_dir(struct options *self, const char *given)
{
    const char *systemd = getenv("STATE_DIRECTORY");
    const char *xdg = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    int length = 0;
    size_t size = sizeof self->state_dir;
    if (given != NULL) {
        length = snprintf(self->state_dir, size, "%s/%s", given, self->name);
    } else if (systemd != NULL && systemd[0] == '/') {
        length = snprintf(self->state_dir, size, "%s/%s", systemd, self->name);
    } else if (xdg != NULL && xdg[0] == '/') {
        length = snprintf(self->state_dir, size, "%s/drawbar/%s", xdg, self->name);
    } else if (geteuid() != 0 && home != NULL && home[0] == '/') {
        length = snprintf(self->state_dir, size, "%s/.local/state/drawbar/%s", home, self->name);
    } else {
        length = snprintf(self->state_dir, size, "/var/lib/drawbar/%s", self->name);
    }
    if (length < 0 || (size_t)length >= size) {
        return mistake("--state-dir: the path is too long", "give a shorter one");
    }
    int rc = make_directories(self->state_dir);
    if (rc != 0) {
        fprintf(stderr,
                "drawbar-worker: --state-dir: %s: %s; give a directory that can be written\n",
                self->state_dir, strerror(-rc));
        return -EINVAL;
    }
    return 0;
}

static int
check_instances(const struct options *self)
{
    if (self->attach.count == 0 && self->start == NULL) {
        return mistake(
            "--attach, --start: no instance is named",
            "give --attach \"url=http://127.0.0.1:7861\" for each running one, or --start "
            "with the command of one");
    }
    if (self->attach.count + (self->start != NULL ? (uint64_t)self->n_start : 0) >
        LIMIT_INSTANCES) {
        return mistake("--attach, --instances: more than 16 instances", "run a second worker");
    }
    if (self->start != NULL && self->base_port + self->n_start - 1 > UINT16_MAX) {
        return mistake("--base-port: the last instance's port is over 65535", "give a lower one");
    }
    if (self->model != NULL && (self->model[0] == '\0' || strlen(self->model) > LIMIT_MODEL_NAME)) {
        return mistake("--model: a model's name is 1 to 64 bytes", "give a shorter one");
    }
    return 0;
}

int
options_load(struct options *out, struct config **config, int argc, char **argv)
{
    const char *name = NULL;
    const char *state_dir = NULL;
    bool insecure_plaintext = false;
    *out = (struct options){ .redis = "redis://127.0.0.1:6379",
                             .driver = "drawbar",
                             .n_start = 1,
                             .base_port = 7861,
                             .stuck_ms = LIMIT_STUCK_MS,
                             .opaque_ms = LIMIT_OPAQUE_MS };
    const struct option options[] = {
        { "redis", OPTION_STRING, &out->redis, "URL",
          "Redis that brokers, gateways and workers share.", 0, 0, false },
        { "name", OPTION_STRING, &name, "NAME",
          "Name of this worker, unique in the fleet; default: the host's name.", 0, 0, false },
        { "attach", OPTION_LIST, &out->attach, "INSTANCE",
          "A running instance: \"driver=D url=http://127.0.0.1:7861 [name=N] [model=M] ...\".", 0,
          0, false },
        { "start", OPTION_STRING, &out->start, "COMMAND",
          "Command line of the instances to start; {port} {device} {index} are filled in.", 0, 0,
          false },
        { "instances", OPTION_INT, &out->n_start, "N", "How many to start.", 1, LIMIT_INSTANCES,
          false },
        { "base-port", OPTION_INT, &out->base_port, "PORT",
          "Port of the first started instance, the others follow; 0: any free ones.", 0, UINT16_MAX,
          false },
        { "driver", OPTION_STRING, &out->driver, "DRIVER",
          "How started instances are spoken to, with its words: \"gradio endpoint=/draw\".", 0, 0,
          false },
        { "model", OPTION_STRING, &out->model, "NAME",
          "What the instances draw with, whatever they tell.", 0, 0, false },
        { "state-dir", OPTION_STRING, &state_dir, "DIR",
          "Where a directory NAME for logs and pids of instances is made.", 0, 0, false },
        { "stuck-ms", OPTION_INT, &out->stuck_ms, "MS",
          "An instance without a step for this long (or ten usual steps) fails its job.", 100,
          LIMIT_OPAQUE_MS, false },
        { "opaque-ms", OPTION_INT, &out->opaque_ms, "MS",
          "How long an instance that tells no steps may take for one picture.", 100,
          LIMIT_INSTANCE_DRAW_MS, false },
        { "startup-s", OPTION_INT, &out->startup_s, "S",
          "How long a started instance may load before it is stopped; 0: 600.", 0, 86400, false },
        { "insecure-plaintext", OPTION_BOOL, &insecure_plaintext, NULL,
          "Allow an unencrypted Redis on another host.", 0, 0, false },
    };
    const struct program program = {
        .name = "drawbar-worker",
        .role = "worker",
        .summary = "Pulls jobs from the broker for the image servers of this host.",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    int rc = config_load(config, &out->common, &program, argc, argv);
    rc = rc ? rc : check_redis(out->redis, insecure_plaintext);
    rc = rc ? rc : check_name(out, name);
    rc = rc ? rc : check_instances(out);
    return rc ? rc : check_state_dir(out, state_dir);
}
