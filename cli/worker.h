#pragma once
/*
 * worker — what a server tells of one worker, read out of its JSON, and how far its leaving is.
 * Texts are cut to fit; what is missing or of another type counts as not told. Pure.
 */
#include "common/limits.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INCARNATION_TEXT = 16 };

struct worker_facts {
    char name[LIMIT_WORKER_NAME + 1];
    char incarnation[INCARNATION_TEXT + 1]; /* "": not told */
    char state[16];                         /* the server's word: "alive" */
    bool draining;
    uint32_t n_jobs; /* drawing, or drawn and not yet handed in */
};

enum worker_stand {
    WORKER_WORKS,  /* it does not know that it is to leave */
    WORKER_DRAINS, /* it says so itself */
    WORKER_SILENT, /* it may be back */
    WORKER_LEFT,   /* it is not listed, or a newer process has its name */
    WORKER_LOST,   /* it fell silent and was forgotten; its jobs were given to others */
    WORKER_STAND_COUNT,
};

/* Reads one worker. 0, or -EBADMSG: no JSON object with a name; *out is untouched. */
int worker_read(struct worker_facts *out, const char *json, size_t length);
/* Looks for the process that was told to leave in the list of GET /v1/workers. 0 and *stand, and
 * *now is what is told of it, if it is listed; or -EBADMSG: this is no such list. */
// NOLINTNEXTLINE(readability-function-size): a text is two of the parameters
int worker_look(enum worker_stand *stand, struct worker_facts *now, const struct worker_facts *told,
                const char *json, size_t length);
/* Writes "/v1/workers/NAME/drain" with the escapes that a path needs. False: no worker can have
 * this name. */
bool worker_drain_path(const char *name, char out[LIMIT_URL]);
