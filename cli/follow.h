#pragma once
/*
 * follow — listens to a job until it ends, whatever happens to the connection.
 *
 *     event stream --lost--> event stream from Last-Event-ID, again and again
 *          `--refused, or silent twice--> long polls
 *
 * A server that does not answer for LIMIT_SERVER_AWAY_MS is given up.
 */
#include "cli/client.h"

/* Updates *job (whose id is set) and the client's progress until the job has ended. 0: it has.
 * Otherwise an exit status, told; or -EINTR, -ETIME. */
int follow_job(struct client *client, struct job *job);
