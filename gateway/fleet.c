#include "gateway/fleet.h"
#include "common/limits.h"
#include "proto/keys.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { INCARNATION_TEXT = 16 };

/* Three answers of Redis, in order: TIME, the beats, the facts. */
struct reading {
    fleet_fn fn;
    void *context;
    int64_t now_ms; /* 0: Redis did not answer */
    json_t *beats;  /* name -> age in ms */
};

static void
on_time(void *context, const redisReply *reply)
{
    struct reading *self = context;
    if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2) {
        self->now_ms = strtoll(reply->element[0]->str, NULL, 10) * 1000 +
                       strtoll(reply->element[1]->str, NULL, 10) / 1000;
    }
}

static void
on_beats(void *context, const redisReply *reply)
{
    struct reading *self = context;
    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY) {
        self->now_ms = 0;
        return;
    }
    for (size_t i = 0; i + 1 < reply->elements; i += 2) {
        int64_t age = self->now_ms - strtoll(reply->element[i + 1]->str, NULL, 10);
        (void)json_object_set_new(self->beats, reply->element[i]->str,
                                  json_integer(age > 0 ? age : 0));
    }
}

static void
worker_fill(const struct reading *self, struct fleet_worker *out, const json_t *facts)
{
    const json_t *age = json_object_get(self->beats, out->name);
    out->facts = facts;
    out->beat_age_ms = age != NULL ? json_integer_value(age) : -1;
    out->state = age == NULL                                 ? "gone"
                 : out->beat_age_ms <= LIMIT_SILENCE_BOTH_MS ? "alive"
                                                             : "silent";
}

/* "<incarnation, 16 hex digits> <facts JSON>"; cuts the text behind the incarnation. */
static json_t *
facts_load(char *text)
{
    json_t *facts = NULL;
    if (strlen(text) > INCARNATION_TEXT) {
        facts = json_loads(text + INCARNATION_TEXT + 1, 0, NULL);
        text[INCARNATION_TEXT] = '\0';
    }
    if (!json_is_object(facts)) {
        json_decref(facts);
        facts = json_object();
    }
    return facts;
}

static void
on_workers(void *context, const redisReply *reply)
{
    struct reading *self = context;
    uint32_t n = 0;
    bool answered = self->now_ms != 0 && reply != NULL && reply->type == REDIS_REPLY_ARRAY;
    size_t count = answered ? reply->elements / 2 : 0;
    struct fleet_worker *workers = calloc(count + 1, sizeof *workers);
    json_t **facts = calloc(count + 1, sizeof(json_t *));
    if (workers == NULL || facts == NULL) {
        abort();
    }
    for (size_t i = 0; i < count; i++) {
        char *text = strdup(reply->element[2 * i + 1]->str);
        if (text == NULL) {
            abort();
        }
        facts[i] = facts_load(text);
        workers[n].name = reply->element[2 * i]->str;
        workers[n].incarnation = text;
        worker_fill(self, &workers[n++], facts[i]);
    }
    self->fn(self->context, answered ? workers : NULL, n);
    for (size_t i = 0; i < count; i++) {
        free((char *)workers[i].incarnation); /* the strdup() above */
        json_decref(facts[i]);
    }
    free(facts);
    free(workers);
    json_decref(self->beats);
    free(self);
}

void
fleet_read(struct redis_client *redis, fleet_fn fn, void *context)
{
    struct reading *self = calloc(1, sizeof *self);
    json_t *beats = json_object();
    if (self == NULL || beats == NULL) {
        abort();
    }
    *self = (struct reading){ .fn = fn, .context = context, .beats = beats };
    redis_client_call(redis, on_time, self, "TIME");
    redis_client_call(redis, on_beats, self, "ZRANGE %s 0 -1 WITHSCORES", KEY_BEATS);
    redis_client_call(redis, on_workers, self, "HGETALL %s", KEY_WORKER);
}
