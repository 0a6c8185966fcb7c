#pragma once
/*
 * rebuild — reads every live job back from Redis at the start of a term, in queue order.
 *
 * LIMIT_REBUILD_PAGE ids of {drawbar}:live at a time, then their records. A record that does not
 * check is logged and left where it is. If the connection breaks it begins anew when
 * rebuild_up() is called: jobs already loaded are told again, and the callee knows them.
 */
#include "common/redis_client.h"
#include "proto/job.h"

struct rebuild;

struct rebuild_events {
    void (*on_record)(void *context, const struct job_id *id, const struct job_record *record);
    void (*on_complete)(void *context, uint32_t jobs, uint32_t corrupt);
    void *context;
};

int rebuild_new(struct rebuild **out, struct redis_client *redis,
                const struct rebuild_events *events); /* 0, -ENOMEM; starts at once */
void rebuild_destroy(struct rebuild **self_p);
void rebuild_up(struct rebuild *self);
