/* sim_instance — an instance that only pretends: the API of the reference instance (API.md), timers
 * in place of a GPU, a drawn landscape in place of a picture, and faults on request. For machines
 * without a GPU and for tests. One thread and a helper, one reactor. */
#include "common/config.h"
#include "common/http_server.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/instance/sim_routes.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct settings {
    int64_t port, step_ms, encode_ms, queue, startup_ms;
    const char *host, *model;
    bool insecure;
    const char *speed, *fail_rate, *black_rate, *garbage_rate, *wrong_size_rate;
    const char *fail_jobs, *black_jobs; /* "": none */
    struct sim_faults faults;
};

struct world {
    struct reactor *reactor;
    struct sim_routes *routes;
    struct http_server *server;
};

static struct settings settings = {
    .host = "127.0.0.1",
    .port = 8188,
    .model = "z-image-turbo",
    .speed = "1",
    .step_ms = 150,
    .queue = 2,
    .fail_rate = "0",
    .black_rate = "0",
    .garbage_rate = "0",
    .wrong_size_rate = "0",
    .fail_jobs = "",
    .black_jobs = "",
    .faults = { .fail_message = "a simulated failure" },
};

/* clang-format off */ /* name, kind, target, argument; help, least, most, required */
static const struct option options[] = {
    { "host", OPTION_STRING, &settings.host, "ADDRESS",
      "Address to listen at.", 0, 0, false },
    { "port", OPTION_INT, &settings.port, "PORT",
      "Port to listen at; 0 takes a free one.", 0, 65535, false },
    { "insecure-plaintext", OPTION_BOOL, &settings.insecure, NULL,
      "Allow a --host that other machines can reach.", 0, 0, false },
    { "model", OPTION_STRING, &settings.model, "NAME",
      "The model that the health check names.", 0, 0, false },
    { "speed", OPTION_STRING, &settings.speed, "F",
      "Divides --step-ms: 2 is twice as fast, 1e9 is free.", 0, 0, false },
    { "step-ms", OPTION_INT, &settings.step_ms, "MS",
      "Time of one step of one image.", 0, 600000, false },
    { "encode-ms", OPTION_INT, &settings.encode_ms, "MS",
      "Time until a job's pictures are encoded, at least; beside the next job.", 0, 600000, false },
    { "queue", OPTION_INT, &settings.queue, "N",
      "Jobs that may wait besides the one at work.", 0, LIMIT_INSTANCE_QUEUE, false },
    { "startup-ms", OPTION_INT, &settings.startup_ms, "MS",
      "Not ready until then.", 0, 3600000, false },
    { "fail-rate", OPTION_STRING, &settings.fail_rate, "P",
      "Fault: probability (0 to 1) that a job fails.", 0, 0, false },
    { "fail-jobs", OPTION_STRING, &settings.fail_jobs, "A-B",
      "Fault: the A-th to B-th job fail; A- is all from the A-th on.", 0, 0, false },
    { "fail-message", OPTION_STRING, &settings.faults.fail_message, "TEXT",
      "What a failed job says.", 0, 0, false },
    { "black-rate", OPTION_STRING, &settings.black_rate, "P",
      "Fault: that its pictures are of one colour.", 0, 0, false },
    { "black-jobs", OPTION_STRING, &settings.black_jobs, "A-B",
      "Fault: those of the A-th to B-th job are; A- is all from the A-th on.", 0, 0, false },
    { "garbage-rate", OPTION_STRING, &settings.garbage_rate, "P",
      "Fault: that they are bytes that are no PNG.", 0, 0, false },
    { "wrong-size-rate", OPTION_STRING, &settings.wrong_size_rate, "P",
      "Fault: that they have another size than asked.", 0, 0, false },
    { "die-after", OPTION_INT, &settings.faults.die_after, "N",
      "Fault: exit 1 in the middle of the N-th job; 0 is never.", 0, INT32_MAX, false },
    { "hang-after", OPTION_INT, &settings.faults.hang_after, "N",
      "Fault: from the N-th job on no step is made.", 0, INT32_MAX, false },
    { "slow-after", OPTION_INT, &settings.faults.slow_after, "N",
      "Fault: from the N-th job on 10 times slower.", 0, INT32_MAX, false },
    { "seed", OPTION_INT, &settings.faults.seed, "N",
      "Seed of the dice for faults.", 0, INT64_MAX, false },
};
/* clang-format on */

static int
settings_load(struct config **out, struct config_common *common, int argc, char **argv)
{
    const struct program program = {
        .name = "drawbar-sim-instance",
        .role = "instance",
        .summary =
            "A SIMULATED Z-Image-Turbo instance: no model and no GPU, drawn pictures marked as "
            "such.\n"
            "Speaks the API of the reference instance, for tests and machines without a GPU.",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    return config_load(out, common, &program, argc, argv);
}

static bool
read_fraction(const char *flag, const char *text, double most, double *value)
{
    char *end = NULL;
    *value = strtod(text, &end);
    if (end == text || *end != '\0' || !(*value >= 0 && *value <= most)) {
        (void)fprintf(stderr, "drawbar-sim-instance: --%s: \"%s\" is not a number from 0 to %g\n",
                      flag, text, most);
        return false;
    }
    return true;
}

/* "3-5", "3-", "3". */
static bool
read_range(const char *flag, const char *text, struct sim_range *range)
{
    char *end = NULL;
    if (text[0] == '\0') {
        return true;
    }
    range->first = strtoull(text, &end, 10);
    range->last = range->first;
    bool good = end != text && text[0] != '-' && range->first > 0;
    if (good && *end == '-') {
        const char *second = end + 1;
        range->last = *second == '\0' ? UINT64_MAX : strtoull(second, &end, 10);
        good = *second != '-' && range->last >= range->first;
        end += *second == '\0';
    }
    if (!good || *end != '\0') {
        (void)fprintf(
            stderr,
            "drawbar-sim-instance: --%s: \"%s\" is not a range of jobs such as 3-5, 3- or "
            "3, counted from 1\n",
            flag, text);
        return false;
    }
    return true;
}

static bool
settings_check(struct settings *s, double *speed)
{
    if (!read_fraction("speed", s->speed, 1e12, speed) ||
        !read_fraction("fail-rate", s->fail_rate, 1, &s->faults.fail_rate) ||
        !read_fraction("black-rate", s->black_rate, 1, &s->faults.black_rate) ||
        !read_fraction("garbage-rate", s->garbage_rate, 1, &s->faults.garbage_rate) ||
        !read_fraction("wrong-size-rate", s->wrong_size_rate, 1, &s->faults.wrong_size_rate) ||
        !read_range("fail-jobs", s->fail_jobs, &s->faults.fail_jobs) ||
        !read_range("black-jobs", s->black_jobs, &s->faults.black_jobs)) {
        return false;
    }
    if (*speed < 1e-3) {
        (void)fprintf(stderr, "drawbar-sim-instance: --speed: must be at least 0.001\n");
        return false;
    }
    if (strlen(s->model) == 0 || strlen(s->model) > LIMIT_MODEL_NAME) {
        (void)fprintf(stderr, "drawbar-sim-instance: --model: must have 1 to %d characters\n",
                      LIMIT_MODEL_NAME);
        return false;
    }
    if (!s->insecure && !host_is_loopback(s->host)) {
        (void)fprintf(stderr,
                      "drawbar-sim-instance: --host: %s can be reached by other machines in plain "
                      "text; add --insecure-plaintext if that is meant\n",
                      s->host);
        return false;
    }
    return true;
}

static void
stop(void *context)
{
    struct world *world = context;
    reactor_stop(world->reactor, 0);
}

static void
on_stop(void *context)
{
    struct world *world = context;
    sim_routes_release(world->routes);
    http_server_drain(
        world->server,
        &(struct http_drain){ .limit_ms = LIMIT_STOP_MS / 4, .done = stop, .context = world });
}

static int
run(const struct settings *s, double speed, const struct config_common *common)
{
    CLEANUP(reactor_destroy) struct reactor *reactor = NULL;
    CLEANUP(sim_routes_destroy) struct sim_routes *routes = NULL; /* the jobs and the API */
    CLEANUP(http_server_destroy) struct http_server *server = NULL;
    const struct sim_routes_config config = {
        .model = s->model,
        .startup_ms = s->startup_ms,
        .jobs = { .speed = speed,
                  .step_ms = s->step_ms,
                  .encode_ms = s->encode_ms,
                  .queue = (uint32_t)s->queue,
                  .faults = s->faults },
    };
    int rc = reactor_new(&reactor, true);
    rc = rc ? rc : sim_routes_new(&routes, reactor, &config);
    const struct http_server_config door = {
        .host = s->host,
        .port = (uint16_t)s->port,
        .body_max = LIMIT_HTTP_BODY_BYTES,
        .on_request = sim_routes_request,
        .context = routes,
    };
    rc = rc ? rc : http_server_new(&server, reactor, &door);
    if (rc != 0) {
        log_error("start-failed host=%s port=%" PRId64 " error=\"%s\"", s->host, s->port,
                  strerror(-rc));
        return rc;
    }
    struct world world = { reactor, routes, server };
    reactor_on_stop(reactor, on_stop, &world);
    log_info("simulated-instance model=%s speed=%g step_ms=%" PRId64, s->model, speed, s->step_ms);
    rc = ready_print(common->ready_file, "instance", "http=%s:%u", s->host,
                     http_server_port(server));
    return rc ? rc : reactor_run(reactor);
}

int
main(int argc, char **argv)
{
    CLEANUP(config_destroy) struct config *config = NULL;
    struct config_common common = { 0 };
    double speed = 1;
    process_setup();
    int rc = settings_load(&config, &common, argc, argv);
    if (rc == CONFIG_EXIT) {
        return EXIT_SUCCESS;
    }
    if (rc != 0 || !settings_check(&settings, &speed)) {
        return 2;
    }
    log_setup("instance", common.log_json, LOG_INFO);
    return run(&settings, speed, &common) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
