#pragma once
/*
 * broker — joins the core and its edges in three moves: decode, step, perform.
 *
 *   election   are we the leader?            -> a term begins: rebuild, then the doors open
 *   rebuild    live jobs from Redis          -> dispatch
 *   door       frames of gateways, workers   -> dispatch -> frames, commits, reads
 *   store      answers of Redis              -> dispatch
 *
 * When the term ends doors, store and core go; the broker stands by.
 */
#include "common/config.h"
#include "common/reactor.h"

struct broker;

struct broker_config {
    const char *redis_url, *host, *advertise, *name, *ready_file;
    int64_t gateway_port, worker_port;
    int64_t max_jobs, queue_mib, retention_s;
    bool accept_volatile, insecure_plaintext;
};

/* Checks the settings and starts. 0, -EINVAL (logged with the cure), -errno. */
int broker_new(struct broker **out, struct reactor *reactor, const struct broker_config *config);
void broker_destroy(struct broker **self_p);
