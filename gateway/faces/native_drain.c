#include "common/clock.h"
#include "common/http_framing.h"
#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/fleet.h"
#include "gateway/json_write.h"
#include "gateway/problem.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A request to drain a worker: the broker is asked, then Redis, for what is known of the worker. */
struct drain_call {
    struct gate *gate;
    struct http_exchange *exchange; /* NULL: the client has left, the answer of Redis frees it */
    struct held_drain *held;
    struct timer *again;
    int64_t since_ms;
    enum drain_verdict verdict;
    bool reads; /* Redis is asked */
    char worker[LIMIT_WORKER_NAME + 1];
};

static void
call_free(struct drain_call *self)
{
    drains_drop(&self->held);
    timer_destroy(&self->again);
    free(self);
}

static void
on_gone(void *context)
{
    struct drain_call *self = context;
    self->exchange = NULL;
    if (!self->reads) {
        call_free(self);
    }
}

static void
answer_told(struct drain_call *self, const struct fleet_worker *worker)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    if (worker != NULL) {
        native_worker_write(&json, worker, true);
    } else { /* it has left meanwhile, or Redis is away */
        put_open(&json, '{');
        put_key(&json, "name");
        put_word(&json, self->worker);
        put_key(&json, "draining");
        put_flag(&json, true);
        put_close(&json, '}');
    }
    answer_json(self->exchange, 202, &json);
}

/* The broker has no session with it. Returns true if that is not the last word: it beats, so its
 * session comes (a new leader has just begun, or the worker has). */
static bool
answer_absent(struct drain_call *self, const struct fleet_worker *worker)
{
    bool in_time = clock_mono_ms() - self->since_ms < LIMIT_SUBMIT_MS;
    if (worker == NULL) {
        problem_send_detail(self->exchange, PROBLEM_NO_WORKER,
                            "There is no worker \"%s\"; GET /v1/workers lists them", self->worker);
    } else if (strcmp(worker->state, "gone") == 0) {
        problem_send_detail(self->exchange, PROBLEM_WORKER_SILENT,
                            "Worker %s is gone: it fell silent, and its jobs were given to others. "
                            "There is nothing to drain",
                            self->worker);
    } else if (strcmp(worker->state, "silent") == 0) {
        problem_send_detail(self->exchange, PROBLEM_WORKER_SILENT,
                            "Worker %s is silent since %lld s and cannot be told. It gets no job; "
                            "end its process, or drain it when it is back",
                            self->worker, (long long)(worker->beat_age_ms / 1000));
    } else if (in_time) {
        return true;
    } else {
        char detail[160];
        (void)snprintf(detail, sizeof detail,
                       "Worker %s lives, but the broker has no session with it yet", self->worker);
        problem_send_away(self->exchange, detail);
    }
    return false;
}

static void
on_fleet(void *context, const struct fleet_worker *workers, uint32_t n)
{
    struct drain_call *self = context;
    const struct fleet_worker *worker = NULL;
    self->reads = false;
    if (self->exchange == NULL) {
        call_free(self);
        return;
    }
    for (uint32_t i = 0; workers != NULL && i < n; i++) {
        worker = strcmp(workers[i].name, self->worker) == 0 ? &workers[i] : worker;
    }
    if (self->verdict == DRAIN_TOLD) {
        answer_told(self, worker);
    } else if (workers == NULL) {
        problem_send_away(self->exchange, "The broker does not know this worker, and Redis did not "
                                          "answer");
    } else if (answer_absent(self, worker)) {
        timer_in_ms(self->again, LIMIT_REPEAT_MS / 4);
        return;
    }
    call_free(self);
}

static void
on_verdict(void *context, enum drain_verdict verdict)
{
    struct drain_call *self = context;
    self->held = NULL;
    self->verdict = verdict;
    if (verdict == DRAIN_LATE) {
        problem_send_away(self->exchange,
                          "The broker did not answer; the worker may drain or not. To ask again "
                          "does no harm");
        call_free(self);
        return;
    }
    self->reads = true;
    fleet_read(self->gate->redis, on_fleet, self);
}

static void
ask(void *context)
{
    struct drain_call *self = context;
    self->held = drains_add(self->gate->jobs->drains, self->worker, on_verdict, self);
    if (self->held == NULL) {
        problem_send(self->exchange,
                     &(struct problem_report){ .problem = PROBLEM_BUSY,
                                               .retry_after_s = LIMIT_RETRY_AFTER_S });
        call_free(self);
    }
}

void
native_drain(const struct route_call *call)
{
    struct slice segment = call->segments[0];
    struct drain_call *self = calloc(1, sizeof *self);
    if (self == NULL || timer_new(&self->again, call->gate->reactor, ask, self) != 0) {
        abort();
    }
    if (!http_decode((const char *)segment.bytes, segment.length, self->worker,
                     sizeof self->worker) ||
        !utf8_valid(self->worker, strlen(self->worker), NULL)) {
        problem_send_detail(call->exchange, PROBLEM_NO_WORKER,
                            "No worker can have this name; GET /v1/workers lists them");
        call_free(self);
        return;
    }
    self->gate = call->gate;
    self->exchange = call->exchange;
    self->since_ms = clock_mono_ms();
    http_on_gone(call->exchange, on_gone, self);
    ask(self);
}
