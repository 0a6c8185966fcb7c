/* worker — pulls jobs for the image servers of this host and hands the pictures to a gateway. One
 * thread, one reactor; one helper thread, and one for the GPU driver. Rules: agent.h. Frames:
 * proto/. What joins them: loop.h.
 */
#include "common/log.h"
#include "common/scope.h"
#include "worker/loop.h"
#include <sodium.h>
#include <stdlib.h>

int
main(int argc, char **argv)
{
    CLEANUP(config_destroy) struct config *config = NULL;
    CLEANUP(reactor_destroy) struct reactor *reactor = NULL;
    CLEANUP(loop_destroy) struct loop *loop = NULL; /* the agent core and its edges */
    static struct options options;

    process_setup();
    int rc = options_load(&options, &config, argc, argv);
    if (rc != 0) {
        return rc == CONFIG_EXIT ? EXIT_SUCCESS : 2;
    }
    log_setup("worker", options.common.log_json, LOG_INFO);
    rc = sodium_init() < 0 ? -1 : 0; /* hashes of pictures */
    rc = rc ? rc : reactor_new(&reactor, true);
    rc = rc ? rc : loop_new(&loop, reactor, &options);
    if (rc == 0) {
        reactor_on_stop(reactor, loop_drain, loop);
        rc = reactor_run(reactor); /* until SIGTERM, DRAIN, or a newer worker of this name */
    }
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
