/* broker — hands each queued job to the next worker that asks; takes it back if the worker falls
 * silent. One thread, one reactor. Rules: dispatch.h. Frames: proto/. How the parts meet: broker.h.
 */
#include "broker/broker.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/scope.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct broker_config settings = {
    .redis_url = "redis://127.0.0.1:6379",
    .host = "127.0.0.1",
    .gateway_port = 5570,
    .worker_port = 5571,
    .max_jobs = LIMIT_JOBS,
    .queue_mib = LIMIT_QUEUE_MIB,
    .retention_s = LIMIT_RETENTION_S,
};

static const struct option options[] = {
    { "redis", OPTION_STRING, &settings.redis_url, "URL",
      "Redis that keeps the jobs: redis://[:PASSWORD@]HOST:PORT or unix:///PATH", 0, 0, false },
    { "host", OPTION_STRING, &settings.host, "ADDR", "address to bind", 0, 0, false },
    { "advertise", OPTION_STRING, &settings.advertise, "ADDR",
      "address told to gateways and workers; default: --host", 0, 0, false },
    { "gateway-port", OPTION_INT, &settings.gateway_port, "PORT",
      "port for gateways, 0: any free one", 0, 65535, false },
    { "worker-port", OPTION_INT, &settings.worker_port, "PORT", "port for workers, 0: any free one",
      0, 65535, false },
    { "name", OPTION_STRING, &settings.name, "NAME", "name of this broker; default: host name", 0,
      0, false },
    { "max-jobs", OPTION_INT, &settings.max_jobs, "N",
      "live jobs; more are refused with 429 queue_full", 1, LIMIT_JOBS, false },
    { "queue-mib", OPTION_INT, &settings.queue_mib, "MIB",
      "memory for queued jobs; more are refused with 429 queue_full", 1, 1 << 20, false },
    { "retention-s", OPTION_INT, &settings.retention_s, "SECONDS",
      "how long an ended job's record and pictures are kept", 60, 30 * 86400, false },
    { "volatile", OPTION_BOOL, &settings.accept_volatile, NULL,
      "lead although Redis would lose jobs at a restart", 0, 0, false },
    { "insecure-plaintext", OPTION_BOOL, &settings.insecure_plaintext, NULL,
      "bind beyond loopback without encryption", 0, 0, false },
};

int
main(int argc, char **argv)
{
    process_setup();
    CLEANUP(config_destroy) struct config *config = NULL;
    CLEANUP(reactor_destroy) struct reactor *reactor = NULL;
    CLEANUP(broker_destroy) struct broker *broker = NULL;
    char host_name[LIMIT_WORKER_NAME + 1] = "broker";
    (void)gethostname(host_name, sizeof host_name - 1);
    settings.name = host_name;

    const struct program program = {
        .name = "drawbar-broker",
        .role = "broker",
        .summary = "Keeps the queue of image jobs in Redis and hands each to the next worker that "
                   "pulls.",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    struct config_common common = { 0 };
    int rc = config_load(&config, &common, &program, argc, argv);
    if (rc != 0) {
        return rc == CONFIG_EXIT ? EXIT_SUCCESS : 2;
    }
    log_setup("broker", common.log_json, LOG_INFO);
    settings.ready_file = common.ready_file;
    rc = sodium_init() < 0 ? -1 : 0;
    rc = rc ? rc : reactor_new(&reactor, true);
    rc = rc ? rc : broker_new(&broker, reactor, &settings);
    rc = rc ? rc : reactor_run(reactor); /* until SIGTERM, or Redis is refused */
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
