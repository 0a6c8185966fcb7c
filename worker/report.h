#pragma once
/*
 * report — turns what the agent wants said into frames to the broker.
 */
#include "worker/agent.h"
#include "worker/capability.h"
#include "worker/link.h"
#include "worker/parcel.h"

/* Where the facts of a frame are; all borrowed for life. */
struct report {
    const char *worker; /* name */
    struct link *link;
    const struct agent *agent;
    const struct capability *capability;
    const struct supervisor *supervisor;
    struct parcel *const *parcels; /* LIMIT_WORKER_LEASES, by slot */
};

/* Sends the frame of one of HELLO, STATE, PROGRESS, DONE, FAIL, REGRANT, BYE. */
void report_send(const struct report *self, const struct agent_effect *effect);
