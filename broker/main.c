/* broker — hands each queued job to the next worker that asks; takes it back if the worker falls
 * silent. One thread, one reactor. Rules: dispatch.h. Frames: proto/. How the parts meet: broker.h.
 */
#include "broker/broker.h"
#include "common/log.h"
#include "common/scope.h"
#include <sodium.h>
#include <stdlib.h>

int
main(int argc, char **argv)
{
    CLEANUP(config_destroy) struct config *config = NULL;
    CLEANUP(reactor_destroy) struct reactor *reactor = NULL;
    CLEANUP(broker_destroy) struct broker *broker = NULL; /* the core and its edges */
    static struct options options;

    process_setup();
    int rc = options_load(&options, &config, argc, argv);
    if (rc != 0) {
        return rc == CONFIG_EXIT ? EXIT_SUCCESS : 2;
    }
    log_setup("broker", options.common.log_json, LOG_INFO);
    rc = sodium_init() < 0 ? -1 : 0; /* signs upload grants */
    rc = rc ? rc : reactor_new(&reactor, true);
    rc = rc ? rc : broker_new(&broker, reactor, &options);
    rc = rc ? rc : reactor_run(reactor); /* until SIGTERM, or Redis is refused */
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
