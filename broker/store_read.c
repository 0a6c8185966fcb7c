/* What the store asks Redis that is no commit: records behind the fence, who is silent, how full it
 * is. */
#include "broker/retention.h"
#include "broker/store_private.h"
#include "common/log.h"
#include "proto/keys.h"
#include <stdlib.h>
#include <string.h>

enum { SWEEP_MAX = 2 * LIMIT_WORKERS };

/* ---- fenced reads ---- */

struct read {
    struct store *store;
    struct inquiry inquiry;
};

static void
on_read_reply(void *context, const redisReply *reply)
{
    struct read *read = context;
    struct store *self = read->store;
    self->pending--;
    self->depth++;
    if (!self->dead && reply != NULL && reply_is(reply, "OK") && reply->elements == 2) {
        struct job_record record;
        const redisReply *value = reply->element[1];
        bool found = value->type == REDIS_REPLY_STRING && value->len > 0;
        if (found && job_record_decode(&self->unpacker, value->str, value->len, &record) != 0) {
            char id[JOB_ID_TEXT + 1];
            job_id_print(&read->inquiry.id, id);
            log_error("record-corrupt job=%s", id);
            found = false;
        }
        self->events.on_record(self->events.context, &read->inquiry, found ? &record : NULL);
    } else if (!self->dead && reply != NULL && reply_is(reply, "FENCED")) {
        self->events.on_fenced(self->events.context);
    } /* else: not answered; whoever asked asks again */
    free(read);
    store_leave(self);
}

void
store_read(struct store *self, const struct inquiry *inquiry)
{
    struct read *read = store_is_current(self) ? calloc(1, sizeof *read) : NULL;
    if (read == NULL) {
        return; /* whoever asked asks again */
    }
    *read = (struct read){ self, *inquiry };
    char id[JOB_ID_TEXT + 1];
    job_id_print(&inquiry->id, id);
    self->pending++;
    redis_client_call(self->redis, on_read_reply, read, "FCALL " FUNCTION_READ " 0 %s %s",
                      self->token, id);
}

/* ---- the sweep ---- */

static void
on_sweep_reply(void *context, const redisReply *reply)
{
    struct store *self = context;
    self->pending--;
    self->depth++;
    self->sweeping = false;
    if (self->dead || reply == NULL) {
        store_leave(self);
        return;
    }
    if (reply_is(reply, "FENCED")) {
        self->events.on_fenced(self->events.context);
    } else if (reply_is(reply, "OK") && reply->elements == 3) {
        uint64_t redis_ms = (uint64_t)reply->element[1]->integer;
        const redisReply *pairs = reply->element[2];
        uint32_t n = (uint32_t)(pairs->elements / 2 < SWEEP_MAX ? pairs->elements / 2 : SWEEP_MAX);
        struct quiet_worker *quiet = calloc(n + 1, sizeof *quiet);
        for (uint32_t i = 0; quiet != NULL && i < n; i++) {
            const redisReply *name = pairs->element[2 * (size_t)i];
            uint64_t beat_ms = strtoull(pairs->element[2 * (size_t)i + 1]->str, NULL, 10);
            quiet[i].name = (struct slice){ name->str, (uint32_t)name->len };
            quiet[i].quiet_ms = (int64_t)(redis_ms - beat_ms);
        }
        if (quiet != NULL) {
            self->events.on_sweep(self->events.context, redis_ms, quiet, n);
        }
        free(quiet);
    }
    store_leave(self);
}

void
store_sweep(void *context)
{
    struct store *self = context;
    if (self->full) { /* the oldest batch asks whether it still is */
        self->full = false;
        kick_now(self->kick);
    }
    if (self->sweeping || !store_is_current(self)) {
        return;
    }
    self->sweeping = true;
    self->pending++;
    redis_client_call(self->redis, on_sweep_reply, self, "FCALL " FUNCTION_SWEEP " 0 %s %d",
                      self->token, (int)LIMIT_SUSPECT_MS);
}

/* ---- how full Redis is ---- */

static uint64_t
info_number(const char *info, const char *name)
{
    const char *at = strstr(info, name);
    return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void
on_memory(void *context, const redisReply *reply)
{
    struct store *self = context;
    self->pending--;
    self->depth++;
    if (!self->dead && reply != NULL && reply->type == REDIS_REPLY_STRING) {
        uint32_t before = self->retention_s;
        self->retention_s =
            retention_s(self->full_retention_s, info_number(reply->str, "\nused_memory:"),
                        info_number(reply->str, "\nmaxmemory:"));
        bool lowered = before == self->full_retention_s && self->retention_s < before;
        if (lowered) {
            log_warn("redis-filling retention_s=%u asked_s=%u cure=\"give Redis more maxmemory\"",
                     self->retention_s, self->full_retention_s);
        }
    }
    store_leave(self);
}

void
store_look(void *context)
{
    struct store *self = context;
    if (redis_client_is_up(self->redis)) {
        self->pending++;
        redis_client_call(self->redis, on_memory, self, "INFO memory");
    }
}
