#pragma once
/*
 * sim_routes — the HTTP face of the simulated instance (see API.md): requests in, JSON and PNG out,
 * long polls held.
 */
#include "common/http_server.h"
#include "worker/instance/sim_jobs.h"

struct sim_routes;

struct sim_routes_config {
    const char *model;  /* borrowed for good */
    int64_t startup_ms; /* until then nothing but the health check is answered, and that with 503 */
    struct sim_jobs_config jobs; /* on_change and context are filled in here */
};

int sim_routes_new(struct sim_routes **out, struct reactor *reactor,
                   const struct sim_routes_config *config);
/* After the server is destroyed: no long poll is held any more. */
void sim_routes_destroy(struct sim_routes **self_p);
/* The on_request of the server; context is the struct sim_routes. */
void sim_routes_request(void *context, struct http_exchange *exchange);
/* Answers all long polls now, so that a drain is quick. */
void sim_routes_release(struct sim_routes *self);
