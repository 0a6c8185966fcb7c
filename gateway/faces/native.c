#include "gateway/faces/native.h"
#include "common/scope.h"
#include "gateway/problem.h"
#include <assert.h>
#include <stdlib.h>

static const struct route routes[] = {
    { HTTP_POST, "/v1/jobs", native_submit },
    { HTTP_GET, "/v1/jobs", native_list },
    { HTTP_GET, "/v1/jobs/{}", native_status },
    { HTTP_DELETE, "/v1/jobs/{}", native_cancel },
    { HTTP_GET, "/v1/jobs/{}/events", native_events },
    { HTTP_GET, "/v1/jobs/{}/images", native_images },
    { HTTP_GET, "/v1/jobs/{}/images/{}", native_picture },
    { HTTP_GET, "/v1/workers", native_workers },
    { HTTP_POST, "/v1/workers/{}/drain", native_drain },
    { HTTP_GET, "/v1/models", native_models },
    { HTTP_GET, "/healthz", native_health },
    { HTTP_GET, "/readyz", native_ready },
};
const struct face native_face = { "native", routes, ARRAY_LENGTH(routes) };

/* A request about one job that waits for its answer. */
struct asked {
    struct gate *gate;
    struct http_exchange *exchange;
    const char *tenant;
    struct job_id id;
    struct lookup *lookup;
    struct job_wait *wait;
    struct held_cancel *cancel;
};

static void
asked_free(void *context)
{
    struct asked *self = context;
    lookup_drop(&self->lookup);
    job_wait_drop(&self->wait);
    cancels_drop(&self->cancel);
    free(self);
}

/* Begins one: the client may leave from here on. */
static struct asked *
asked_new(const struct route_call *call, const struct job_id *id)
{
    struct asked *self = calloc(1, sizeof *self);
    if (self == NULL) {
        abort();
    }
    *self = (struct asked){
        .gate = call->gate, .exchange = call->exchange, .tenant = call->tenant, .id = *id
    };
    http_on_gone(call->exchange, asked_free, self);
    return self;
}

void
native_answer_missing(struct http_exchange *exchange, enum lookup_verdict verdict)
{
    switch (verdict) {
    case LOOKUP_UNKNOWN:
        problem_send_detail(exchange, PROBLEM_UNKNOWN, "There is no such job");
        break;
    case LOOKUP_AWAY:
        problem_send_away(exchange, "Neither the broker nor Redis answered");
        break;
    case LOOKUP_BROKEN:
        problem_send_detail(exchange, PROBLEM_INTERNAL, "The job's record cannot be read");
        break;
    case LOOKUP_FOUND:
    case LOOKUP_VERDICT_COUNT:
        assert(false);
        break;
    }
}

void
native_answer_job(struct gate *gate, struct http_exchange *exchange, int status,
                  enum lookup_verdict verdict, const struct job_view *view)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    struct job_parts parts;
    if (verdict == LOOKUP_FOUND && job_view_unpack(&gate->unpacker, view, &parts) != 0) {
        verdict = LOOKUP_BROKEN;
    }
    if (verdict != LOOKUP_FOUND) {
        native_answer_missing(exchange, verdict);
        return;
    }
    render_job(&json, view, &parts);
    answer_json(exchange, status, &json);
}

static void
on_job(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    struct asked *self = context;
    self->lookup = NULL; /* told: dead */
    self->wait = NULL;
    native_answer_job(self->gate, self->exchange, 200, verdict, view);
    asked_free(self);
}

void
native_status(const struct route_call *call)
{
    struct job_id id;
    uint32_t wait_s = 0;
    if (!route_job_id(call, &id) || !route_number(call, "wait", LIMIT_WAIT_S, &wait_s)) {
        return;
    }
    struct asked *self = asked_new(call, &id);
    const struct lookup_order order = { call->tenant, id, on_job, self };
    if (wait_s > 0) {
        self->wait = job_wait_start(call->gate->waits, &order, (int64_t)wait_s * 1000);
    } else {
        self->lookup = lookups_ask(call->gate->jobs->lookups, &order);
    }
}

static void
on_cancelled(void *context, enum cancel_verdict verdict)
{
    struct asked *self = context;
    const struct lookup_order order = { self->tenant, self->id, on_job, self };
    self->cancel = NULL;
    switch (verdict) {
    case CANCEL_DONE:
        lookups_forget(self->gate->jobs->lookups, &self->id);
        self->lookup = lookups_ask(self->gate->jobs->lookups, &order);
        return;
    case CANCEL_UNKNOWN:
        native_answer_missing(self->exchange, LOOKUP_UNKNOWN);
        break;
    case CANCEL_LATE:
        problem_send_away(self->exchange,
                          "The broker did not answer; the job may be cancelled or not");
        break;
    case CANCEL_VERDICT_COUNT:
        assert(false);
        break;
    }
    asked_free(self);
}

void
native_cancel(const struct route_call *call)
{
    struct job_id id;
    if (!route_job_id(call, &id)) {
        return;
    }
    struct asked *self = asked_new(call, &id);
    self->cancel = cancels_add(call->gate->jobs->cancels, call->tenant, &id, on_cancelled, self);
    if (self->cancel == NULL) {
        problem_send(call->exchange,
                     &(struct problem_report){ .problem = PROBLEM_BUSY,
                                               .retry_after_s = LIMIT_RETRY_AFTER_S });
        asked_free(self);
    }
}
