/* gateway — takes generation requests over HTTP, hands them to the broker, keeps the pictures.
 *
 * N identical reactors (gate.h) share one address; uploads have a thread of their own
 * (artifacts.h). What paths there are: routes.h and faces/. What a request may say: request.h.
 * How jobs are followed: jobs.h. Nothing here outlives the process: jobs are in Redis, pictures in
 * a directory. */
#include "common/log.h"
#include "common/scope.h"
#include "gateway/gate.h"
#include <assert.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2 };

struct gateway {
    struct gate *gates[LIMIT_GATEWAY_THREADS];
    pthread_t threads[LIMIT_GATEWAY_THREADS];
    uint32_t n_gates, n_threads;
};

/* gate_shared.give_up: stops all gates. */
static void
stop_all(void *context, int rc)
{
    const struct gateway *self = context;
    for (uint32_t i = 0; i < self->n_gates; i++) {
        gate_stop(self->gates[i], rc);
    }
}

static void
gateway_destroy(struct gateway *self)
{
    for (uint32_t i = 0; i < self->n_gates; i++) {
        gate_destroy(&self->gates[i]);
    }
}

static int
gates_open(struct gateway *self, const struct gate_shared *shared)
{
    uint16_t port = shared->settings->port;
    for (uint32_t i = 0; i < (uint32_t)shared->settings->threads; i++) {
        int rc = gate_new(&self->gates[i], shared, i, port);
        if (rc != 0) {
            return rc;
        }
        self->n_gates++;
        port = http_server_port(self->gates[0]->http); /* 0 was any: the others take the same */
    }
    return 0;
}

static void *
thread_main(void *gate)
{
    (void)gate_run(gate);
    return NULL;
}

/* The first gate runs on this thread. Returns when all have ended. */
static int
gates_run(struct gateway *self)
{
    int rc = 0;
    for (uint32_t i = 1; i < self->n_gates && rc == 0; i++) {
        rc = -pthread_create(&self->threads[i], NULL, thread_main, self->gates[i]);
        self->n_threads += rc == 0;
    }
    if (rc != 0) {
        log_error("thread-failed do=\"raise the limit of threads, or use fewer --threads\"");
        stop_all(self, rc);
    }
    int first = gate_run(self->gates[0]);
    stop_all(self, first); /* a second signal ends the first one's loop at once */
    for (uint32_t i = 1; i <= self->n_threads; i++) {
        (void)pthread_join(self->threads[i], NULL);
    }
    return rc ? rc : first;
}

static int
ready(const struct gateway *self, const struct gate_shared *shared)
{
    const struct settings *settings = shared->settings;
    char http[LIMIT_URL];
    char uploads[LIMIT_URL];
    assert(self->n_gates > 0 && self->gates[0] != NULL);
    settings_address(settings->host, http_server_port(self->gates[0]->http), http);
    settings_address(settings->uploads_host, artifacts_port(shared->artifacts), uploads);
    return ready_print(settings->common.ready_file, "gateway", "http=%s uploads=%s", http, uploads);
}

int
main(int argc, char **argv)
{
    CLEANUP(settings_destroy) struct settings settings;
    CLEANUP(artifacts_destroy) struct artifacts *artifacts = NULL; /* pictures and uploads */
    CLEANUP(gateway_destroy) struct gateway gateway = { 0 };       /* the reactors */
    char uploads_url[LIMIT_URL];

    process_setup();
    int rc = settings_load(&settings, argc, argv);
    if (rc != 0) {
        return rc == CONFIG_EXIT ? EXIT_SUCCESS : EXIT_USAGE;
    }
    log_setup("gateway", settings.common.log_json, LOG_INFO);
    if (sodium_init() < 0) {
        return EXIT_FAILURE;
    }
    const struct artifacts_config store = { .dir = settings.artifacts,
                                            .host = settings.uploads_host,
                                            .port = settings.uploads_port,
                                            .redis_url = settings.redis_url,
                                            .max_parallel = LIMIT_UPLOADS_PARALLEL,
                                            .sweep_ms = LIMIT_SWEEP_FILES_MS,
                                            .grace_s = LIMIT_PICTURE_GRACE_S };
    struct gate_shared shared = {
        .settings = &settings, .uploads_url = uploads_url, .give_up = stop_all, .context = &gateway
    };
    rc = artifacts_open(&artifacts, &store);
    if (rc != 0) {
        return EXIT_FAILURE; /* logged: what to do */
    }
    shared.artifacts = artifacts;
    settings_uploads_url(&settings, artifacts_port(artifacts), uploads_url);
    rc = gates_open(&gateway, &shared);
    rc = rc ? rc : ready(&gateway, &shared);
    rc = rc ? rc : gates_run(&gateway); /* until SIGTERM, or the broker refuses us */
    if (rc == 0) {
        artifacts_drain(artifacts, LIMIT_DRAIN_MS);
    }
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
