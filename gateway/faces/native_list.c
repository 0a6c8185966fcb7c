#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/json_write.h"
#include "gateway/problem.h"
#include "proto/keys.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_DEFAULT = 20 };

/* A job of a page, before its record is read. */
struct listed {
    struct job_id id;
    uint64_t sequence;
};

/* A list being made: pages of ids by falling sequence, then their records, until `limit` fit the
 * filter or LIMIT_LIST_SCAN were read. Redis holds the newest LIMIT_TENANT_JOBS of a tenant. */
struct listing {
    struct gate *gate;
    struct http_exchange *exchange; /* NULL: the client has left */
    const char *tenant;
    uint32_t limit, found, scanned;
    enum job_state state; /* filter; JOB_NONE: all */
    uint64_t below;       /* the next page begins under this sequence */
    struct listed page[LIMIT_LIST_JOBS];
    uint32_t n_page;
    struct buffer json;
};

static void
listing_gone(void *context)
{
    struct listing *self = context;
    self->exchange = NULL; /* the answer of Redis frees it */
}

static void
listing_free(struct listing *self)
{
    buffer_destroy(&self->json);
    free(self);
}

static void
listing_fail(struct listing *self)
{
    if (self->exchange != NULL) {
        problem_send_away(self->exchange, "Redis did not answer");
    }
    listing_free(self);
}

static void
listing_answer(struct listing *self, bool more)
{
    char cursor[24];
    put_close(&self->json, ']');
    put_key(&self->json, "next_cursor");
    if (more) {
        (void)snprintf(cursor, sizeof cursor, "%" PRIu64, self->below);
        put_word(&self->json, cursor);
    } else {
        put_null(&self->json);
    }
    put_close(&self->json, '}');
    if (self->exchange != NULL) {
        answer_json(self->exchange, 200, &self->json);
    }
    listing_free(self);
}

static void
record_add(struct listing *self, const struct listed *listed, const redisReply *reply)
{
    struct job_record record;
    if (reply->type != REDIS_REPLY_STRING ||
        job_record_decode(&self->gate->unpacker, reply->str, reply->len, &record) != 0 ||
        (self->state != JOB_NONE && record.header.state != self->state)) {
        return; /* its life is over, or it is none of those asked for */
    }
    struct job_parts parts = { record.envelope, record.body, record.result, record.has_result };
    struct job_view view = {
        .entry = { .id = listed->id, .header = record.header, .eta_s = ETA_UNKNOWN }
    };
    render_job(&self->json, &view, &parts);
    self->found++;
}

static void on_page(void *context, const redisReply *reply);

static void
page_ask(struct listing *self)
{
    char below[32];
    (void)snprintf(below, sizeof below, "(%" PRIu64, self->below);
    redis_client_call(self->gate->redis, on_page, self,
                      "ZREVRANGEBYSCORE %s%s %s -inf WITHSCORES LIMIT 0 %u", KEY_TENANT,
                      self->tenant, self->below == UINT64_MAX ? "+inf" : below,
                      (unsigned)LIMIT_LIST_JOBS);
}

static void
on_records(void *context, const redisReply *reply)
{
    struct listing *self = context;
    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements != self->n_page) {
        listing_fail(self);
        return;
    }
    for (uint32_t i = 0; i < self->n_page && self->found < self->limit; i++) {
        record_add(self, &self->page[i], reply->element[i]);
        self->below = self->page[i].sequence;
        self->scanned++;
    }
    bool last_page =
        self->n_page < LIMIT_LIST_JOBS && self->below == self->page[self->n_page - 1].sequence;
    if (last_page) {
        listing_answer(self, false);
    } else if (self->found == self->limit || self->scanned >= LIMIT_LIST_SCAN ||
               self->exchange == NULL) {
        listing_answer(self, true);
    } else {
        page_ask(self);
    }
}

static void
on_page(void *context, const redisReply *reply)
{
    struct listing *self = context;
    char keys[LIMIT_LIST_JOBS][sizeof KEY_JOB + JOB_ID_TEXT];
    const char *argv[LIMIT_LIST_JOBS + 1] = { "MGET" };
    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY) {
        listing_fail(self);
        return;
    }
    self->n_page = 0;
    for (size_t i = 0; i + 1 < reply->elements && self->n_page < LIMIT_LIST_JOBS; i += 2) {
        const redisReply *id = reply->element[i];
        struct listed *listed = &self->page[self->n_page];
        if (job_id_parse(id->str, id->len, &listed->id)) {
            listed->sequence = strtoull(reply->element[i + 1]->str, NULL, 10);
            (void)snprintf(keys[self->n_page], sizeof keys[0], "%s%.*s", KEY_JOB, JOB_ID_TEXT,
                           id->str);
            argv[self->n_page + 1] = keys[self->n_page];
            self->n_page++;
        }
    }
    if (self->n_page == 0) {
        listing_answer(self, false);
        return;
    }
    redis_client_command(self->gate->redis, on_records, self, (int)self->n_page + 1, argv, NULL);
}

/* False: answered. */
static bool
filter_read(const struct route_call *call, enum job_state *out)
{
    char text[16];
    *out = JOB_NONE;
    if (!route_text(call, "status", text, sizeof text)) {
        return false;
    }
    for (int state = JOB_QUEUED; text[0] != '\0' && state < JOB_STATE_COUNT; state++) {
        if (strcmp(text, job_state_name((enum job_state)state)) == 0) {
            *out = (enum job_state)state;
        }
    }
    if (text[0] != '\0' && *out == JOB_NONE) {
        problem_send_detail(call->exchange, PROBLEM_ARGUMENT,
                            "status must be one of: queued, running, succeeded, failed, "
                            "cancelled, expired");
        return false;
    }
    return true;
}

/* False: answered. */
static bool
cursor_read(const struct route_call *call, uint64_t *out)
{
    char text[24];
    char *end = NULL;
    *out = UINT64_MAX;
    if (!route_text(call, "cursor", text, sizeof text)) {
        return false;
    }
    if (text[0] != '\0') {
        *out = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end != '\0') {
            problem_send_detail(call->exchange, PROBLEM_ARGUMENT,
                                "cursor must be a next_cursor of an earlier answer");
            return false;
        }
    }
    return true;
}

void
native_list(const struct route_call *call)
{
    uint32_t limit = LIST_DEFAULT;
    enum job_state state;
    uint64_t below;
    if (!route_number(call, "limit", LIMIT_LIST_JOBS, &limit) || !filter_read(call, &state) ||
        !cursor_read(call, &below)) {
        return;
    }
    if (limit == 0) {
        problem_send_detail(call->exchange, PROBLEM_ARGUMENT, "limit must be from 1 to %d",
                            LIMIT_LIST_JOBS);
        return;
    }
    struct listing *self = calloc(1, sizeof *self);
    if (self == NULL) {
        abort();
    }
    self->gate = call->gate;
    self->exchange = call->exchange;
    self->tenant = call->tenant;
    self->limit = limit;
    self->state = state;
    self->below = below;
    put_open(&self->json, '{');
    put_key(&self->json, "jobs");
    put_open(&self->json, '[');
    http_on_gone(call->exchange, listing_gone, self);
    page_ask(self);
}
