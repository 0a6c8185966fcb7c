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

/* NULL: nothing. */
static const char *
may_lose(enum durability durability)
{
    static const char *const losses[DURABILITY_COUNT] = {
        [DURABILITY_UNKNOWN] = "unknown: the broker may not read Redis's configuration",
        [DURABILITY_EVERYSEC] = "about the last second of accepted jobs, if Redis's host loses "
                                "power and the leading broker dies with it",
        [DURABILITY_REPLICATED] = "about the last second of accepted jobs, if Redis's host, its "
                                  "replicas and the leading broker lose power together",
        [DURABILITY_UNREPLICATED] = "accepted jobs that no replica had when Redis fails over",
        [DURABILITY_VOLATILE] = "all jobs, when Redis restarts and the leading broker with it",
    };
    return losses[durability < DURABILITY_COUNT ? durability : DURABILITY_UNKNOWN];
}

static void
durability_write(struct buffer *json, enum durability durability)
{
    put_key(json, "durability");
    put_open(json, '{');
    put_key(json, "mode");
    put_word(json, durability_name(durability));
    put_key(json, "may_lose");
    if (may_lose(durability) != NULL) {
        put_word(json, may_lose(durability));
    } else {
        put_null(json);
    }
    put_close(json, '}');
}

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
    durability_write(&json, facts->durability);
    put_close(&json, '}');
    answer_json(call->exchange, ready ? 200 : 503, &json);
}
