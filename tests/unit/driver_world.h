#pragma once
/*
 * driver_world — one attached instance, its supervisor, and a server in this process that answers
 * what a test's `on_request` says. What the agent would hear is written down as words.
 */
#include "common/clock.h"
#include "common/http_server.h"
#include "common/scope.h"
#include "worker/instance.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct world {
    struct reactor *reactor;
    struct http_client *http;
    struct helper_thread *helper;
    struct supervisor *supervisor;
    struct timer *limit;
    struct http_server *server;
    struct http_exchange *held; /* a request that waits for its answer */
    bool gone;                  /* its client left */
    void *stub;
    void (*on_request)(struct world *world, struct http_exchange *exchange, const char *path);
    uint16_t (*door)(struct world *world); /* NULL, or gives the port before the server's */
    char heard[512];                       /* "taken 1/4 2/4 drawn ready" */
    const char *until;
    enum fail_code code;
    bool taken, final;
    char message[256];
    struct drawing drawing;
    double guidance;
    const char *negative;
};

/* -- the server -- */

static inline void
answer(struct http_exchange *exchange, int status, const char *text)
{
    http_respond(exchange, status, "application/json", text, strlen(text));
}

static inline void
world_on_gone(void *context)
{
    struct world *world = context;
    world->held = NULL;
    world->gone = true;
}

static inline void
hold(struct world *world, struct http_exchange *exchange)
{
    cr_assert(world->held == NULL);
    world->held = exchange;
    world->gone = false;
    http_on_gone(exchange, world_on_gone, world);
}

static inline struct http_exchange *
release(struct world *world)
{
    struct http_exchange *exchange = world->held;
    cr_assert(exchange != NULL);
    world->held = NULL;
    return exchange;
}

static inline void
world_on_request(void *context, struct http_exchange *exchange)
{
    struct world *world = context;
    world->on_request(world, exchange, http_path(exchange));
}

static inline json_t *
body_of(struct http_exchange *exchange)
{
    size_t length = 0;
    const char *bytes = http_body(exchange, &length);
    json_t *body = json_loadb(bytes, length, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(body != NULL, "%.*s", (int)length, bytes);
    return body;
}

static inline void
base64(const char *text, char *out, size_t size)
{
    sodium_bin2base64(out, size, (const unsigned char *)text, strlen(text),
                      sodium_base64_VARIANT_ORIGINAL);
}

/* -- the agent -- */

static inline void
hear(struct world *world, const char *word)
{
    size_t used = strlen(world->heard);
    snprintf(world->heard + used, sizeof world->heard - used, "%s%s", used == 0 ? "" : " ", word);
    if (world->until != NULL && strcmp(world->until, word) == 0) {
        reactor_stop(world->reactor, 0);
    }
}

/* A word about one of several jobs: "2:taken"; of a job without a serial the word alone. */
static inline void
hear_of(struct world *world, uint32_t serial, const char *word)
{
    char text[48];
    snprintf(text, sizeof text, "%u:%s", serial, word);
    hear(world, serial == 0 ? word : text);
}

static inline void
world_on_state(void *context, uint32_t index, enum instance_state state)
{
    (void)index;
    hear(context, instance_state_name(state));
}

static inline void
world_on_taken(void *context, uint32_t index, uint32_t serial)
{
    (void)index;
    hear_of(context, serial, "taken");
}

static inline void
world_on_step(void *context, uint32_t index, uint32_t serial, uint8_t step, uint8_t steps)
{
    char word[32];
    (void)index;
    snprintf(word, sizeof word, "%u/%u", step, steps);
    hear_of(context, serial, word);
}

static inline void
world_on_drawn(void *context, uint32_t index, uint32_t serial, struct drawing *drawing)
{
    struct world *world = context;
    (void)index;
    drawing_clear(&world->drawing);
    world->drawing = *drawing;
    hear_of(world, serial, "drawn");
}

static inline void
world_on_failed(void *context, uint32_t index, uint32_t serial, const struct failure *failure)
{
    struct world *world = context;
    (void)index;
    world->code = failure->code;
    world->taken = failure->taken;
    world->final = failure->final;
    snprintf(world->message, sizeof world->message, "%s", failure->message);
    hear_of(world, serial, failure->taken || serial == 0 ? "failed" : "lost");
}

static inline void
world_on_refused(void *context, uint32_t index, uint32_t serial)
{
    (void)index;
    hear_of(context, serial, "refused");
}

static inline void
too_late(void *context)
{
    struct world *world = context;
    reactor_stop(world->reactor, -ETIMEDOUT);
}

static inline void
turn_until(struct world *world, const char *word, int64_t limit_ms)
{
    world->until = word;
    timer_in_ms(world->limit, limit_ms);
    int rc = reactor_run(world->reactor);
    timer_stop(world->limit);
    cr_assert(zero(int, rc), "no %s in %d ms; heard: %s (%s)", word, (int)limit_ms, world->heard,
              world->message);
}

static inline void
turn_for(struct world *world, int64_t ms)
{
    world->until = NULL;
    timer_in_ms(world->limit, ms);
    reactor_run(world->reactor);
}

static inline void
serve(struct world *world, uint16_t port)
{
    struct http_server_config config = { .host = "127.0.0.1",
                                         .port = port,
                                         .body_max = 65536,
                                         .on_request = world_on_request,
                                         .context = world };
    cr_assert(zero(int, http_server_new(&world->server, world->reactor, &config)));
}

/* `words`: "driver=... ", without url= and name=. Turns until the instance is ready. */
static inline void
open_world(struct world *world, const char *words, int64_t stuck_ms)
{
    struct instance_events events = { .on_state = world_on_state,
                                      .on_taken = world_on_taken,
                                      .on_step = world_on_step,
                                      .on_drawn = world_on_drawn,
                                      .on_failed = world_on_failed,
                                      .on_refused = world_on_refused,
                                      .context = world };
    char text[512];
    const char *line = text;
    process_setup();
    cr_assert(zero(int, reactor_new(&world->reactor, false)));
    cr_assert(zero(int, helper_thread_new(&world->helper, world->reactor)));
    struct supervisor_config config = { .attach = &line,
                                        .n_attach = 1,
                                        .stuck_ms = stuck_ms,
                                        .startup_ms = 2 * stuck_ms,
                                        .helper = world->helper };
    cr_assert(zero(int, http_client_new(&world->http, world->reactor)));
    cr_assert(zero(int, timer_new(&world->limit, world->reactor, too_late, world)));
    serve(world, 0);
    snprintf(text, sizeof text, "%s url=http://127.0.0.1:%u name=one", words,
             world->door != NULL ? world->door(world) : http_server_port(world->server));
    cr_assert(zero(
        int, supervisor_new(&world->supervisor, world->reactor, world->http, &config, &events)));
    turn_until(world, "ready", 3000);
    world->heard[0] = '\0';
}

static inline void
close_world(struct world *world)
{
    drawing_clear(&world->drawing);
    supervisor_destroy(&world->supervisor);
    helper_thread_destroy(&world->helper);
    http_server_destroy(&world->server);
    timer_destroy(&world->limit);
    http_client_destroy(&world->http);
    reactor_destroy(&world->reactor);
}

static inline void
draw(struct world *world, uint8_t n, uint32_t seed)
{
    struct envelope envelope = { .width = 128, .height = 64, .steps = 8, .n = n };
    struct job_body body = { .prompt = { "a \"red\" fox", 11 },
                             .seed = seed,
                             .guidance = world->guidance };
    struct draw_request request = { .id = "J.1", .envelope = &envelope, .body = &body };
    if (world->negative != NULL) {
        body.negative_prompt = slice_of(world->negative);
    }
    world->heard[0] = world->message[0] = '\0';
    cr_assert(zero(int, instance_draw(world->supervisor, 0, &request)));
    cr_assert(zero(sz, strlen(world->heard)), "nothing is told from inside");
}

static inline void
expect_heard(struct world *world, const char *heard)
{
    cr_assert(eq(str, world->heard, (char *)heard), "%s", world->message);
}

static inline void
expect_picture(struct world *world, uint32_t i, const char *bytes, uint32_t seed)
{
    const struct drawn_picture *picture = &world->drawing.pictures[i];
    cr_assert(lt(u32, i, world->drawing.n));
    cr_assert(eq(sz, picture->length, strlen(bytes)));
    cr_assert(zero(int, memcmp(picture->bytes, bytes, strlen(bytes))));
    cr_assert(eq(u32, picture->seed, seed));
}

static inline void
expect_failure(struct world *world, enum fail_code code, bool taken, bool final)
{
    cr_assert(eq(int, world->code, code), "%s", world->message);
    cr_assert(eq(int, world->taken, taken), "%s", world->message);
    cr_assert(eq(int, world->final, final), "%s", world->message);
}

/* The server goes away while it draws, and comes back. */
static inline void
kill_and_come_back(struct world *world)
{
    uint16_t port = http_server_port(world->server);
    http_server_destroy(&world->server);
    turn_until(world, "failed", 3000);
    expect_failure(world, FAIL_INSTANCE_DIED, true, false);
    if (instance_state(world->supervisor, 0) != INSTANCE_DOWN) {
        turn_until(world, "down", 1000); /* its driver looks whether anybody still draws */
    }
    world->held = NULL;
    serve(world, port);
    turn_until(world, "ready", 4000);
}

/* The reason of the first instance's state, as its facts tell it; "": none. */
static inline void
expect_reason(const struct world *world, const char *wanted)
{
    char text[1024];
    size_t length = instance_facts(world->supervisor, 0, text, sizeof text);
    json_t *facts = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(facts != NULL, "%.*s", (int)length, text);
    const char *reason = json_string_value(json_object_get(facts, "reason"));
    cr_assert(eq(str, (char *)(reason == NULL ? "" : reason), (char *)wanted));
    json_decref(facts);
}
