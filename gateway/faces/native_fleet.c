#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/fleet.h"
#include "gateway/json_write.h"
#include "gateway/problem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A client that waits for an answer of Redis. */
struct waiting {
    struct http_exchange *exchange; /* NULL: it has left */
};

static void
waiting_gone(void *context)
{
    struct waiting *self = context;
    self->exchange = NULL; /* the answer of Redis frees it */
}

static void
fleet_ask(const struct route_call *call, fleet_fn fn)
{
    struct waiting *self = calloc(1, sizeof *self);
    if (self == NULL) {
        abort();
    }
    self->exchange = call->exchange;
    http_on_gone(call->exchange, waiting_gone, self);
    fleet_read(call->gate->redis, fn, self);
}

/* Takes the exchange out of a wait that is over; NULL: nobody to answer. */
static struct http_exchange *
waiting_end(struct waiting *self, bool answered)
{
    struct http_exchange *exchange = self->exchange;
    free(self);
    if (exchange != NULL && !answered) {
        problem_send_away(exchange, "Redis did not answer");
        return NULL;
    }
    return exchange;
}

static void
json_value_write(struct buffer *out, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (text != NULL) {
        put_raw(out, slice_of(text));
    }
    free(text);
}

/* What we say of a worker, then what it says of itself, unless it is a word of ours. */
void
native_worker_write(struct buffer *out, const struct fleet_worker *worker, bool told)
{
    static const char *const ours[] = { "name", "incarnation", "state", "last_beat_ms",
                                        "draining" };
    size_t n_ours = ARRAY_LENGTH(ours) - !told;
    const char *key;
    json_t *value;
    put_open(out, '{');
    put_key(out, ours[0]);
    put_word(out, worker->name);
    put_key(out, ours[1]);
    put_word(out, worker->incarnation);
    put_key(out, ours[2]);
    put_word(out, worker->state);
    put_key(out, ours[3]);
    if (worker->beat_age_ms >= 0) {
        put_uint(out, (uint64_t)worker->beat_age_ms);
    } else {
        put_null(out);
    }
    if (told) {
        put_key(out, ours[4]);
        put_flag(out, true);
    }
    json_object_foreach((json_t *)worker->facts, key, value)
    {
        bool taken = strpbrk(key, "\"\\\n\r\t") != NULL;
        for (size_t i = 0; i < n_ours; i++) {
            taken = taken || strcmp(key, ours[i]) == 0;
        }
        if (!taken) {
            put_key(out, key);
            json_value_write(out, value);
        }
    }
    put_close(out, '}');
}

static void
on_workers(void *context, const struct fleet_worker *workers, uint32_t n)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    struct http_exchange *exchange = waiting_end(context, workers != NULL);
    if (exchange == NULL) {
        return;
    }
    put_open(&json, '{');
    put_key(&json, "workers");
    put_open(&json, '[');
    for (uint32_t i = 0; i < n; i++) {
        native_worker_write(&json, &workers[i], false);
    }
    put_close(&json, ']');
    put_close(&json, '}');
    answer_json(exchange, 200, &json);
}

void
native_workers(const struct route_call *call)
{
    fleet_ask(call, on_workers);
}

/* Counts the worker for each model that it names. */
static void
models_count(json_t *models, const struct fleet_worker *worker)
{
    size_t i;
    json_t *item;
    if (strcmp(worker->state, "alive") != 0) {
        return;
    }
    json_array_foreach(json_object_get(worker->facts, "models"), i, item)
    {
        const char *name = json_string_value(item);
        if (name != NULL && model_name_valid(name, strlen(name))) {
            json_int_t workers = json_integer_value(json_object_get(models, name));
            (void)json_object_set_new(models, name, json_integer(workers + 1));
        }
    }
}

static void
on_models(void *context, const struct fleet_worker *workers, uint32_t n)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    struct http_exchange *exchange = waiting_end(context, workers != NULL);
    if (exchange == NULL) {
        return;
    }
    json_t *models = json_object();
    const char *name;
    json_t *count;
    (void)json_object_set_new(models, REQUEST_MODEL, json_integer(0));
    for (uint32_t i = 0; i < n; i++) {
        models_count(models, &workers[i]);
    }
    put_open(&json, '{');
    put_key(&json, "models");
    put_open(&json, '[');
    json_object_foreach(models, name, count)
    {
        put_open(&json, '{');
        put_key(&json, "id");
        put_word(&json, name);
        put_key(&json, "default");
        put_flag(&json, strcmp(name, REQUEST_MODEL) == 0);
        put_key(&json, "workers");
        put_uint(&json, (uint64_t)json_integer_value(count));
        put_close(&json, '}');
    }
    put_close(&json, ']');
    put_close(&json, '}');
    json_decref(models);
    answer_json(exchange, 200, &json);
}

void
native_models(const struct route_call *call)
{
    fleet_ask(call, on_models);
}
