#include "broker/rebuild.h"
#include "broker/batch.h"
#include "common/log.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct rebuild {
    struct redis_client *redis;
    struct rebuild_events events;
    struct record_unpacker unpacker;
    struct job_id *ids; /* of the page whose records are asked for */
    uint32_t n_ids, from, jobs, corrupt;
    uint32_t pending; /* replies that Redis still owes us */
    bool dead;
};

static void
rebuild_free(struct rebuild *self)
{
    record_unpacker_destroy(&self->unpacker);
    free(self->ids);
    free(self);
}

void
rebuild_destroy(struct rebuild **self_p)
{
    struct rebuild *self = *self_p;
    *self_p = NULL;
    if (self == NULL) {
        return;
    }
    self->dead = true;
    if (self->pending == 0) {
        rebuild_free(self);
    }
}

/* At the head of each reply: false if it is nobody's any more. */
static bool
rebuild_enter(struct rebuild *self, const redisReply *reply)
{
    self->pending--;
    if (self->dead && self->pending == 0) {
        rebuild_free(self);
        return false;
    }
    if (self->dead || reply == NULL) {
        return false; /* rebuild_up() begins anew */
    }
    if (reply->type != REDIS_REPLY_ARRAY) {
        log_error("rebuild-refused error=\"%s\"", reply->str != NULL ? reply->str : "");
        redis_client_reset(self->redis, "the rebuild was refused");
        return false;
    }
    return true;
}

static void ask_page(struct rebuild *self);

static void
load_record(struct rebuild *self, const struct job_id *id, const redisReply *value)
{
    struct job_record record;
    if (value->type != REDIS_REPLY_STRING ||
        job_record_decode(&self->unpacker, value->str, value->len, &record) != 0) {
        char text[JOB_ID_TEXT + 1];
        job_id_print(id, text);
        log_error("record-corrupt job=%s", text);
        self->corrupt++;
        return;
    }
    self->jobs++;
    self->events.on_record(self->events.context, id, &record);
}

static void
on_records(void *context, const redisReply *reply)
{
    struct rebuild *self = context;
    if (!rebuild_enter(self, reply)) {
        return;
    }
    for (uint32_t i = 0; i < self->n_ids && i < reply->elements; i++) {
        load_record(self, &self->ids[i], reply->element[i]);
    }
    self->from += LIMIT_REBUILD_PAGE;
    ask_page(self);
}

static void
on_page(void *context, const redisReply *reply)
{
    struct rebuild *self = context;
    if (!rebuild_enter(self, reply)) {
        return;
    }
    if (reply->elements == 0) {
        self->events.on_complete(self->events.context, self->jobs, self->corrupt);
        return;
    }
    CLEANUP(message_destroy) struct message message = { 0 };
    size_t prefix = sizeof KEY_JOB - 1;
    size_t size = prefix + JOB_ID_TEXT;
    char *keys = malloc(reply->elements * size);
    if (keys == NULL) {
        abort();
    }
    message_add_text(&message, "MGET");
    self->n_ids = 0;
    for (size_t i = 0; i < reply->elements && self->n_ids < LIMIT_REBUILD_PAGE; i++) {
        const redisReply *id = reply->element[i];
        if (id->len == JOB_ID_TEXT && job_id_parse(id->str, id->len, &self->ids[self->n_ids])) {
            char *key = keys + self->n_ids++ * size;
            memcpy(key, KEY_JOB, prefix);
            memcpy(key + prefix, id->str, JOB_ID_TEXT);
            message_add(&message, key, size);
        }
    }
    if (self->n_ids == 0) { /* a page of what is no job id: nobody of ours wrote it */
        free(keys);
        log_error("rebuild-no-ids from=%u", self->from);
        self->from += LIMIT_REBUILD_PAGE;
        ask_page(self);
        return;
    }
    self->pending++;
    redis_client_command(self->redis, on_records, self, message.argc, message.argv,
                         message.lengths);
    free(keys);
}

static void
ask_page(struct rebuild *self)
{
    self->pending++;
    redis_client_call(self->redis, on_page, self, "ZRANGE " KEY_LIVE " %u %u", self->from,
                      self->from + LIMIT_REBUILD_PAGE - 1);
}

void
rebuild_up(struct rebuild *self)
{
    self->from = self->jobs = self->corrupt = 0;
    ask_page(self);
}

int
rebuild_new(struct rebuild **out, struct redis_client *redis, const struct rebuild_events *events)
{
    CLEANUP(rebuild_destroy) struct rebuild *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->redis = redis;
    self->events = *events;
    self->ids = calloc(LIMIT_REBUILD_PAGE, sizeof *self->ids);
    int rc = self->ids != NULL ? record_unpacker_new(&self->unpacker) : -ENOMEM;
    if (rc != 0) {
        return rc;
    }
    *out = self;
    ask_page(self);
    self = NULL;
    return 0;
}
