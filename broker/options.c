#include "broker/options.h"
#include "common/limits.h"
#include "common/reactor.h"
#include "common/redis_url.h"
#include "common/scope.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int
mistake(const char *what, const char *cure)
{
    (void)fprintf(stderr, "drawbar-broker: %s; %s\n", what, cure);
    return -EINVAL;
}

/* Behind Sentinels a replica may take over: what it does not have is lost. */
static int
check_replicas(struct options *self, const struct redis_url *url)
{
    self->fails_over = url->n_sentinels > 0;
    if (self->redis_wait < 0) {
        self->redis_wait = self->fails_over ? 1 : 0;
    }
    if (self->fails_over && self->redis_wait == 0 && !self->accept_loss) {
        return mistake("--redis-wait 0: a fail-over of Redis would lose accepted jobs",
                       "leave it out, or give --accept-loss");
    }
    return 0;
}

static int
check_redis(struct options *self)
{
    struct redis_url url;
    const char *why = "";
    if (redis_url_parse(&url, self->redis_url, &why) != 0) {
        return mistake("--redis: this is no address of a Redis", why); /* it may hold a password */
    }
    if (!redis_url_is_loopback(&url) && !self->insecure_plaintext) {
        return mistake("--redis: the connection to another host would not be encrypted",
                       "tunnel it (stunnel, WireGuard) or give --insecure-plaintext");
    }
    return check_replicas(self, &url);
}

static int
check_doors(struct options *self)
{
    bool wildcard = strcmp(self->host, "0.0.0.0") == 0 || strcmp(self->host, "::") == 0 ||
                    strcmp(self->host, "*") == 0;
    if (!host_is_loopback(self->host) && !self->insecure_plaintext) {
        return mistake("--host: gateways and workers would be spoken to in plain text over the "
                       "network",
                       "bind 127.0.0.1, or give --insecure-plaintext on a network you trust");
    }
    if (self->advertise == NULL && wildcard) {
        return mistake("--advertise: gateways and workers need an address to connect to",
                       "give the address of this host, because --host binds all of them");
    }
    if (self->advertise == NULL) {
        self->advertise = self->host;
    }
    return 0;
}

int
options_load(struct options *self, struct config **config, int argc, char **argv)
{
    *self = (struct options){
        .redis_url = "redis://127.0.0.1:6379",
        .host = "127.0.0.1",
        .gateway_port = 5570,
        .worker_port = 5571,
        .max_jobs = LIMIT_JOBS,
        .queue_mib = LIMIT_QUEUE_MIB,
        .retention_s = LIMIT_RETENTION_S,
        .redis_wait = -1,
        .host_name = "broker",
    };
    (void)gethostname(self->host_name, sizeof self->host_name - 1);
    self->name = self->host_name;
    const struct option options[] = {
        { "redis", OPTION_STRING, &self->redis_url, "URL",
          "Redis that keeps the jobs: redis://[:PASSWORD@]HOST:PORT, unix:///PATH, or "
          "sentinel://HOST,HOST,HOST/NAME",
          0, 0, false },
        { "redis-wait", OPTION_INT, &self->redis_wait, "N",
          "replicas that must have a job before it is accepted; default: 1 with sentinel://, else "
          "0",
          0, LIMIT_REPLICAS, false },
        { "accept-loss", OPTION_BOOL, &self->accept_loss, NULL,
          "with sentinel:// and --redis-wait 0: a fail-over may lose accepted jobs", 0, 0, false },
        { "host", OPTION_STRING, &self->host, "ADDR", "address to bind", 0, 0, false },
        { "advertise", OPTION_STRING, &self->advertise, "ADDR",
          "address told to gateways and workers; default: --host", 0, 0, false },
        { "gateway-port", OPTION_INT, &self->gateway_port, "PORT",
          "port for gateways, 0: any free one", 0, 65535, false },
        { "worker-port", OPTION_INT, &self->worker_port, "PORT",
          "port for workers, 0: any free one", 0, 65535, false },
        { "name", OPTION_STRING, &self->name, "NAME", "name of this broker; default: host name", 0,
          0, false },
        { "max-jobs", OPTION_INT, &self->max_jobs, "N",
          "live jobs; more are refused with 429 queue_full", 1, LIMIT_JOBS, false },
        { "queue-mib", OPTION_INT, &self->queue_mib, "MIB",
          "memory for queued jobs; more are refused with 429 queue_full", 1, 1 << 20, false },
        { "retention-s", OPTION_INT, &self->retention_s, "SECONDS",
          "how long an ended job's record and pictures are kept", 60, LIMIT_RETENTION_MAX_S,
          false },
        { "volatile", OPTION_BOOL, &self->accept_volatile, NULL,
          "lead although Redis would lose jobs at a restart", 0, 0, false },
        { "insecure-plaintext", OPTION_BOOL, &self->insecure_plaintext, NULL,
          "bind beyond loopback without encryption", 0, 0, false },
    };
    const struct program program = {
        .name = "drawbar-broker",
        .role = "broker",
        .summary = "Keeps the queue of image jobs in Redis and hands each to the next worker that "
                   "pulls.",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    int rc = config_load(config, &self->common, &program, argc, argv);
    if (rc != 0) {
        return rc;
    }
    if (strlen(self->name) > LIMIT_WORKER_NAME) {
        return mistake("--name: is longer than 64 characters", "give a shorter one");
    }
    rc = check_redis(self);
    return rc ? rc : check_doors(self);
}
