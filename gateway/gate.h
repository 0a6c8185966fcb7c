#pragma once
/*
 * gate — one of a gateway's identical reactors: HTTP on one side, broker and Redis on the other.
 *
 * The gates of a process share the address they listen on (SO_REUSEPORT), the settings and the
 * artifacts, and nothing else. Each runs on a thread of its own; gate_stop() may be called from
 * any.
 */
#include "common/helper_thread.h"
#include "common/http_server.h"
#include "gateway/artifacts.h"
#include "gateway/job_wait.h"
#include "gateway/jobs.h"
#include "gateway/settings.h"

struct gate_shared {
    const struct settings *settings;
    struct artifacts *artifacts;
    const char *uploads_url;
    /* A gate cannot go on, logged: end the process with this rc. From any thread. */
    void (*give_up)(void *context, int rc);
    void *context;
};

/* What handlers of routes see of their gate. */
struct gate {
    const struct gate_shared *shared;
    struct reactor *reactor;
    struct redis_client *redis;
    struct helper_thread *helper;
    struct jobs *jobs;
    struct waits *waits;
    struct http_server *http;
    struct record_unpacker unpacker; /* for one view at a time */
    struct event *stop_event;
    struct timer *opening; /* Redis does not answer: clients are told so */
    int stop_fd;
    bool is_first, stopping;
    int rc; /* to leave with */
    char name[LIMIT_WORKER_NAME + 1];
};

/* Makes the n-th gate, which listens on `port` (0: any) at once. The first one's reactor takes the
 * signals. 0, or -errno (logged: what to do). */
int gate_new(struct gate **out, const struct gate_shared *shared, uint32_t n, uint16_t port);
void gate_destroy(struct gate **self_p);
/* Works until it was stopped and has answered what it held. Returns rc. */
int gate_run(struct gate *self);
/* Asks for an orderly stop with this rc; from any thread, any number of times. */
void gate_stop(struct gate *self, int rc);
