#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/json_write.h"
#include "gateway/problem.h"

void
native_health(const struct route_call *call)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    put_open(&json, '{');
    put_key(&json, "ok");
    put_flag(&json, true);
    put_key(&json, "version");
    put_word(&json, DRAWBAR_VERSION);
    put_close(&json, '}');
    answer_json(call->exchange, 200, &json);
}

struct check {
    const char *name;
    bool passed;
    const char *reason; /* what is wrong when it did not */
};

void
native_ready(const struct route_call *call)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    const struct gate *gate = call->gate;
    const struct broker_facts *facts = broker_link_facts(gate->jobs->link);
    const struct check checks[] = {
        { "serving", !gate->stopping, "this gateway is stopping" },
        { "redis", redis_client_is_up(gate->redis), "Redis does not answer" },
        { "broker", broker_link_is_open(gate->jobs->link), "no broker leads, or it is away" },
        { "store", !artifacts_full(gate->shared->artifacts), "the disk of the pictures is full" },
    };
    bool ready = true;
    put_open(&json, '{');
    put_key(&json, "checks");
    put_open(&json, '{');
    for (size_t i = 0; i < ARRAY_LENGTH(checks); i++) {
        put_key(&json, checks[i].name);
        put_word(&json, checks[i].passed ? "ok" : "failed");
        ready = ready && checks[i].passed;
    }
    put_close(&json, '}');
    put_key(&json, "ready");
    put_flag(&json, ready);
    put_key(&json, "reasons");
    put_open(&json, '[');
    for (size_t i = 0; i < ARRAY_LENGTH(checks); i++) {
        if (!checks[i].passed) {
            put_word(&json, checks[i].reason);
        }
    }
    put_close(&json, ']');
    put_key(&json, "queue");
    put_open(&json, '{');
    put_key(&json, "queued");
    put_uint(&json, facts->queued);
    put_key(&json, "running");
    put_uint(&json, facts->running);
    put_key(&json, "workers");
    put_uint(&json, facts->workers);
    put_close(&json, '}');
    put_key(&json, "epoch");
    put_uint(&json, facts->epoch);
    put_close(&json, '}');
    answer_json(call->exchange, ready ? 200 : 503, &json);
}
