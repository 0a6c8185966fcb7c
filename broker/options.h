#pragma once
/*
 * options — the command line of drawbar-broker.
 */
#include "common/config.h"

struct options {
    const char *redis_url;
    const char *host, *advertise; /* bound; told to gateways and workers */
    const char *name;
    int64_t gateway_port, worker_port;
    int64_t max_jobs, queue_mib, retention_s;
    int64_t redis_wait; /* replicas that must confirm a batch; 1 with Sentinels unless told */
    bool fails_over;    /* --redis names Sentinels */
    bool accept_volatile, accept_loss, insecure_plaintext;
    struct config_common common;
    char host_name[64 + 1];
};

/* As config_load(): 0, CONFIG_EXIT, or -EINVAL with what is wrong, and what to do, printed. */
int options_load(struct options *self, struct config **config, int argc, char **argv);
