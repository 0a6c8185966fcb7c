/* The driver `drawbar` and the rules of instance.h, against a server in this process that answers
 * what a test tells it. */
#include "common/clock.h"
#include "common/http_server.h"
#include "common/scope.h"
#include "worker/instance.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the server answers and what it saw. */
struct server {
    struct http_server *http;
    const char *epoch;
    int submit_status; /* of POST */
    const char *submit_body;
    bool drop_submit;     /* the first POST is never answered */
    const char *views[8]; /* answers to GET of the job, one after the other, the last for ever */
    uint32_t view;
    int view_status;
    int delete_status;
    bool hang_views;
    int health_status;
    bool not_ready;
    uint32_t n_submits, n_deletes, n_fetches;
    bool deleted; /* then GET is 404 */
    bool stays_after_delete;
    char submitted[4096];
};

struct world {
    struct reactor *reactor;
    struct http_client *http;
    struct supervisor *supervisor;
    struct timer *limit;
    struct server server;
    char line[128];
    /* what the agent heard */
    char heard[512]; /* "taken step1 step2 drawn ready" */
    const char *until;
    enum fail_code code;
    bool taken, final;
    char message[256];
    struct drawing drawing;
};

#define VIEW(rest) "{\"id\":\"J.1\",\"epoch\":\"e1\"," rest "}"
#define QUEUED     VIEW("\"state\":\"queued\",\"step\":0,\"steps\":4")
#define RUNNING(n) VIEW("\"state\":\"running\",\"step\":" #n ",\"steps\":4")
#define SUCCEEDED                                                                                  \
    VIEW("\"state\":\"succeeded\",\"step\":4,\"steps\":4,\"gpu_ms\":123,\"images\":["              \
         "{\"index\":0,\"width\":64,\"height\":64,\"seed\":7,\"bytes\":8},"                        \
         "{\"index\":1,\"width\":64,\"height\":64,\"seed\":8,\"bytes\":8}]")

static void
answer(struct http_exchange *exchange, int status, const char *text)
{
    http_respond(exchange, status, "application/json", text, strlen(text));
}

static void
on_submit(struct server *self, struct http_exchange *exchange)
{
    size_t length;
    const char *body = http_body(exchange, &length);
    self->n_submits++;
    snprintf(self->submitted, sizeof self->submitted, "%.*s", (int)length, body);
    if (self->drop_submit) {
        self->drop_submit = false;
        answer(exchange, 202, "");
        return;
    }
    answer(exchange, self->submit_status, self->submit_body);
}

static void
on_request(void *context, struct http_exchange *exchange)
{
    struct server *self = context;
    const char *path = http_path(exchange);
    char text[256];
    if (strcmp(path, "/healthz") == 0) {
        snprintf(text, sizeof text,
                 "{\"ready\":%s,\"simulated\":true,\"model\":\"m1\",\"epoch\":\"%s\","
                 "\"max_pixels\":4194304}",
                 self->not_ready ? "false" : "true", self->epoch);
        answer(exchange, self->health_status, text);
    } else if (http_method(exchange) == HTTP_POST) {
        on_submit(self, exchange);
    } else if (http_method(exchange) == HTTP_DELETE) {
        self->n_deletes++;
        self->deleted = !self->stays_after_delete;
        answer(exchange, self->delete_status, "{}");
    } else if (strstr(path, "/images/") != NULL) {
        self->n_fetches++;
        snprintf(text, sizeof text, "picture%s", strrchr(path, '/') + 1);
        http_respond(exchange, 200, "image/png", text, strlen(text));
    } else if (self->deleted) {
        answer(exchange, 404, "{}");
    } else if (!self->hang_views) {
        const char *view = self->views[self->view];
        self->view += self->view + 1 < ARRAY_LENGTH(self->views) && self->views[self->view + 1];
        answer(exchange, self->view_status, view);
    }
}

/* -- what the agent hears -- */

static void
hear(struct world *world, const char *word)
{
    size_t used = strlen(world->heard);
    snprintf(world->heard + used, sizeof world->heard - used, "%s%s", used == 0 ? "" : " ", word);
    if (world->until != NULL && strcmp(world->until, word) == 0) {
        reactor_stop(world->reactor, 0);
    }
}

static void
on_state(void *context, uint32_t index, enum instance_state state)
{
    cr_assert(zero(u32, index));
    hear(context, instance_state_name(state));
}

static void
on_taken(void *context, uint32_t index, uint32_t serial)
{
    (void)index;
    (void)serial;
    hear(context, "taken");
}

static void
on_step(void *context, uint32_t index, uint32_t serial, uint8_t step, uint8_t steps)
{
    char word[32];
    (void)index;
    (void)serial;
    snprintf(word, sizeof word, "%u/%u", step, steps);
    hear(context, word);
}

static void
on_drawn(void *context, uint32_t index, uint32_t serial, struct drawing *drawing)
{
    struct world *world = context;
    (void)index;
    (void)serial;
    world->drawing = *drawing;
    hear(world, "drawn");
}

static void
on_failed(void *context, uint32_t index, uint32_t serial, const struct failure *failure)
{
    struct world *world = context;
    (void)index;
    (void)serial;
    world->code = failure->code;
    world->taken = failure->taken;
    world->final = failure->final;
    snprintf(world->message, sizeof world->message, "%s", failure->message);
    hear(world, "failed");
}

static void
too_late(void *context)
{
    struct world *world = context;
    reactor_stop(world->reactor, -ETIMEDOUT);
}

/* Turns the loop until the agent hears the word. */
static void
turn_until(struct world *world, const char *word, int64_t limit_ms)
{
    world->until = word;
    timer_in_ms(world->limit, limit_ms);
    int rc = reactor_run(world->reactor);
    timer_stop(world->limit);
    cr_assert(zero(int, rc), "no %s in %d ms; heard: %s (%s)", word, (int)limit_ms, world->heard,
              world->message);
}

static void
turn_for(struct world *world, int64_t ms)
{
    world->until = NULL;
    timer_in_ms(world->limit, ms);
    reactor_run(world->reactor);
}

static void
serve(struct world *world, uint16_t port)
{
    struct http_server_config config = { .host = "127.0.0.1",
                                         .port = port,
                                         .body_max = 65536,
                                         .on_request = on_request,
                                         .context = &world->server };
    cr_assert(zero(int, http_server_new(&world->server.http, world->reactor, &config)));
}

static void
open_world_with(struct world *world, int64_t stuck_ms)
{
    struct instance_events events = { .on_state = on_state,
                                      .on_taken = on_taken,
                                      .on_step = on_step,
                                      .on_drawn = on_drawn,
                                      .on_failed = on_failed,
                                      .context = world };
    *world = (struct world){ .server = { .epoch = "e1",
                                         .submit_status = 202,
                                         .submit_body = QUEUED,
                                         .view_status = 200,
                                         .delete_status = 200,
                                         .health_status = 200,
                                         .views = { RUNNING(1), RUNNING(2), SUCCEEDED } } };
    process_setup();
    cr_assert(zero(int, reactor_new(&world->reactor, false)));
    cr_assert(zero(int, http_client_new(&world->http, world->reactor)));
    cr_assert(zero(int, timer_new(&world->limit, world->reactor, too_late, world)));
    serve(world, 0);
    snprintf(world->line, sizeof world->line, "driver=drawbar url=http://127.0.0.1:%u/ name=one",
             http_server_port(world->server.http));
    const char *line = world->line;
    struct supervisor_config config = {
        .attach = &line, .n_attach = 1, .stuck_ms = stuck_ms, .startup_ms = 2 * stuck_ms
    };
    cr_assert(zero(
        int, supervisor_new(&world->supervisor, world->reactor, world->http, &config, &events)));
    turn_until(world, "ready", 2000);
    world->heard[0] = '\0';
}

static void
open_world(struct world *world)
{
    open_world_with(world, 60000);
}

static void
close_world(struct world *world)
{
    drawing_clear(&world->drawing);
    supervisor_destroy(&world->supervisor);
    http_server_destroy(&world->server.http);
    timer_destroy(&world->limit);
    http_client_destroy(&world->http);
    reactor_destroy(&world->reactor);
}

static void
draw(struct world *world)
{
    struct envelope envelope = { .width = 64, .height = 64, .steps = 4, .n = 2 };
    struct job_body body = { .prompt = { "a \"red\" fox", 11 }, .seed = 7 };
    struct draw_request request = { .id = "J.1", .envelope = &envelope, .body = &body };
    world->heard[0] = '\0';
    cr_assert(zero(int, instance_draw(world->supervisor, 0, &request)));
    cr_assert(zero(sz, strlen(world->heard)), "nothing is told from inside");
    cr_assert(eq(int, instance_state(world->supervisor, 0), INSTANCE_BUSY));
}

TestSuite(drawbar_driver, .timeout = 30);

Test(drawbar_driver, a_job_is_taken_told_step_by_step_fetched_and_deleted)
{
    struct world world;
    open_world(&world);
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"m1"));
    cr_assert(eq(u32, instance_max_pixels(world.supervisor, 0), 4194304));
    draw(&world);
    turn_until(&world, "ready", 5000);
    cr_assert(eq(str, world.heard, (char *)"taken 1/4 2/4 4/4 drawn ready"));
    cr_assert(eq(u32, world.drawing.n, 2));
    cr_assert(eq(u32, world.drawing.gpu_ms, 123));
    cr_assert(eq(u32, world.drawing.pictures[1].seed, 8));
    cr_assert(zero(int, memcmp(world.drawing.pictures[1].bytes, "picture1", 8)));
    turn_for(&world, 50);
    cr_assert(eq(u32, world.server.n_deletes, 1), "the instance may forget it");
    json_t *body = json_loads(world.server.submitted, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(eq(str, (char *)json_string_value(json_object_get(body, "prompt")),
                 (char *)"a \"red\" fox"));
    cr_assert(eq(str, (char *)json_string_value(json_object_get(body, "id")), (char *)"J.1"));
    cr_assert(eq(int, (int)json_integer_value(json_object_get(body, "n")), 2));
    json_decref(body);
    close_world(&world);
}

Test(drawbar_driver, a_bad_request_is_a_final_failure_and_the_instance_stays_ready)
{
    struct world world;
    open_world(&world);
    world.server.submit_status = 422;
    world.server.submit_body = "{\"error\":{\"code\":\"bad_size\",\"message\":\"too wide\"}}";
    draw(&world);
    turn_until(&world, "ready", 2000);
    cr_assert(eq(str, world.heard, (char *)"failed ready"));
    cr_assert(eq(int, world.code, FAIL_INSTANCE_REFUSED));
    cr_assert(world.final && !world.taken);
    cr_assert(eq(str, world.message, (char *)"HTTP 422: too wide"));
    close_world(&world);
}

Test(drawbar_driver, a_busy_instance_is_left_alone_for_a_while_and_no_try_is_counted)
{
    struct world world;
    open_world(&world);
    world.server.submit_status = 429;
    draw(&world);
    int64_t start_ms = clock_mono_ms();
    turn_until(&world, "ready", 4000);
    cr_assert(eq(str, world.heard, (char *)"failed down ready"));
    cr_assert(ge(i64, clock_mono_ms() - start_ms, LIMIT_RESTART_MIN_MS));
    cr_assert(not(world.taken));
    cr_assert(not(world.final));
    close_world(&world);
}

Test(drawbar_driver, a_500_counts_as_a_try_and_three_in_a_row_take_the_instance_out)
{
    struct world world;
    open_world(&world);
    world.server.submit_status = 500;
    for (int i = 1; i <= LIMIT_ERROR_STREAK; i++) {
        draw(&world);
        turn_until(&world, i < LIMIT_ERROR_STREAK ? "ready" : "down", 2000);
        cr_assert(eq(int, world.code, FAIL_INSTANCE_ERROR));
        cr_assert(world.taken && !world.final);
    }
    turn_until(&world, "ready", 3000);
    draw(&world);
    turn_until(&world, "down", 2000); /* on probation: one is enough */
    turn_until(&world, "ready", 5000);
    world.server.submit_status = 202;
    draw(&world);
    turn_until(&world, "ready", 5000);
    cr_assert(eq(str, world.heard, (char *)"taken 1/4 2/4 4/4 drawn ready"));
    close_world(&world);
}

Test(drawbar_driver, a_failed_job_is_told_with_its_reason)
{
    struct world world;
    open_world(&world);
    world.server.views[1] =
        VIEW("\"state\":\"failed\",\"error\":{\"code\":\"cuda\",\"message\":\"out of memory\"}");
    world.server.views[2] = NULL;
    draw(&world);
    turn_until(&world, "ready", 2000);
    cr_assert(eq(str, world.heard, (char *)"taken 1/4 failed ready"));
    cr_assert(eq(int, world.code, FAIL_INSTANCE_ERROR));
    cr_assert(eq(str, world.message, (char *)"cuda: out of memory"));
    cr_assert(world.taken);
    close_world(&world);
}

Test(drawbar_driver, fewer_pictures_than_asked_are_a_failure)
{
    struct world world;
    open_world(&world);
    world.server.views[2] = VIEW("\"state\":\"succeeded\",\"images\":[{\"seed\":7}]");
    draw(&world);
    turn_until(&world, "failed", 2000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_ERROR));
    cr_assert(eq(str, world.message, (char *)"made 1 of 2 pictures"));
    close_world(&world);
}

Test(drawbar_driver, a_job_that_is_no_longer_known_died_with_its_instance)
{
    struct world world;
    open_world(&world);
    world.server.deleted = true;
    draw(&world);
    turn_until(&world, "failed", 2000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_DIED));
    cr_assert(world.taken);
    turn_until(&world, "ready", 3000);
    close_world(&world);
}

Test(drawbar_driver, another_epoch_is_another_life_of_the_instance)
{
    struct world world;
    open_world(&world);
    world.server.views[1] = "{\"state\":\"running\",\"step\":2,\"steps\":4,\"epoch\":\"e2\"}";
    draw(&world);
    turn_until(&world, "failed", 2000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_DIED));
    close_world(&world);
}

Test(drawbar_driver, a_server_that_goes_away_takes_its_job_along_and_comes_back)
{
    struct world world;
    open_world(&world);
    uint16_t port = http_server_port(world.server.http);
    world.server.views[1] = NULL;
    draw(&world);
    turn_until(&world, "1/4", 2000);
    http_server_destroy(&world.server.http);
    turn_until(&world, "failed", 2000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_DIED));
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_DOWN));
    serve(&world, port);
    turn_until(&world, "ready", 3000);
    close_world(&world);
}

Test(drawbar_driver, nobody_there_at_submit_is_no_try)
{
    struct world world;
    open_world(&world);
    http_server_destroy(&world.server.http);
    draw(&world);
    turn_until(&world, "down", 2000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_DIED));
    cr_assert(not(world.taken));
    close_world(&world);
}

Test(drawbar_driver, an_interrupted_job_is_deleted_and_nothing_more_is_heard)
{
    struct world world;
    open_world(&world);
    world.server.views[1] = NULL;
    draw(&world);
    turn_until(&world, "1/4", 2000);
    world.server.stays_after_delete = true; /* a step must end first */
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 300);
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY), "until it is free");
    cr_assert(eq(u32, world.server.n_deletes, 1));
    world.server.views[0] = VIEW("\"state\":\"cancelled\"");
    turn_until(&world, "ready", 2000);
    cr_assert(eq(str, world.heard, (char *)"taken 1/4 ready"));
    close_world(&world);
}

Test(drawbar_driver, an_interrupt_during_the_submit_waits_for_its_answer)
{
    struct world world;
    open_world(&world);
    draw(&world);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 2000);
    cr_assert(eq(str, world.heard, (char *)"ready"));
    cr_assert(eq(u32, world.server.n_submits, 1));
    cr_assert(eq(u32, world.server.n_deletes, 1));
    close_world(&world);
}

Test(drawbar_driver, no_step_for_too_long_is_stuck_and_interrupted)
{
    struct world world;
    open_world_with(&world, 400); /* 800 ms for the first job */
    draw(&world);
    turn_until(&world, "ready", 3000);
    turn_for(&world, 50); /* the DELETE of the first */
    drawing_clear(&world.drawing);
    world.server.view = 0;
    world.server.views[1] = NULL;
    world.server.deleted = false;
    draw(&world);
    int64_t start_ms = clock_mono_ms();
    turn_until(&world, "ready", 5000);
    cr_assert(eq(str, world.heard, (char *)"taken 1/4 failed ready"));
    cr_assert(eq(int, world.code, FAIL_INSTANCE_STUCK));
    cr_assert(ge(i64, clock_mono_ms() - start_ms, 400));
    cr_assert(world.taken);
    cr_assert(eq(u32, world.server.n_deletes, 2));
    close_world(&world);
}

Test(drawbar_driver, the_first_job_has_the_time_of_a_start)
{
    struct world world;
    open_world_with(&world, 300); /* 600 ms for the first job */
    world.server.views[0] = QUEUED;
    world.server.views[1] = NULL;
    draw(&world);
    int64_t start_ms = clock_mono_ms();
    turn_until(&world, "failed", 3000);
    cr_assert(ge(i64, clock_mono_ms() - start_ms, 600));
    close_world(&world);
}

Test(drawbar_driver, an_instance_that_is_not_ready_gets_nothing)
{
    struct world world;
    open_world(&world);
    world.server.not_ready = true;
    turn_until(&world, "starting", 3000);
    struct draw_request request = { .id = "J.1" };
    cr_assert(eq(int, instance_draw(world.supervisor, 0, &request), -EBUSY));
    world.server.not_ready = false;
    turn_until(&world, "ready", 3000);
    close_world(&world);
}

Test(drawbar_driver, three_failed_health_checks_and_it_is_down)
{
    struct world world;
    open_world(&world);
    world.server.health_status = 500;
    turn_until(&world, "down", 5000);
    world.server.health_status = 200;
    turn_until(&world, "ready", 3000);
    close_world(&world);
}

Test(drawbar_driver, an_answer_that_makes_no_sense_is_an_error_and_the_job_is_removed)
{
    struct world world;
    open_world(&world);
    world.server.drop_submit = true; /* 202 with an empty body */
    draw(&world);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_ERROR));
    cr_assert(eq(u32, world.server.n_deletes, 1));
    world.server.deleted = false;
    world.server.views[0] = "[\"what\"]";
    world.server.views[1] = NULL;
    draw(&world);
    turn_until(&world, "ready", 5000);
    cr_assert(eq(int, world.code, FAIL_INSTANCE_ERROR));
    cr_assert(eq(u32, world.server.n_deletes, 2));
    close_world(&world);
}

static void
judge(struct world *world, enum judgement_kind kind)
{
    struct judgement judgement = { .kind = kind, .message = "asked 64x64, got 32x32" };
    instance_judge(world->supervisor, 0, &judgement);
}

Test(drawbar_driver, three_bad_pictures_in_a_row_take_the_instance_out)
{
    struct world world;
    open_world(&world);
    for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
        judge(&world, JUDGED_BAD);
    }
    judge(&world, JUDGED_GOOD); /* not in a row */
    judge(&world, JUDGED_BAD);
    turn_for(&world, 1500);
    cr_assert(zero(sz, strlen(world.heard)), "%s", world.heard);
    for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
        judge(&world, JUDGED_BAD);
    }
    turn_until(&world, "down", 1000);
    turn_until(&world, "ready", 3000);
    close_world(&world);
}

static void
on_stopped(void *context)
{
    hear(context, "stopped");
}

Test(drawbar_driver, a_stop_interrupts_what_an_attached_instance_draws)
{
    struct world world;
    open_world(&world);
    world.server.views[1] = NULL;
    draw(&world);
    turn_until(&world, "1/4", 2000);
    supervisor_stop(world.supervisor, on_stopped, &world);
    turn_until(&world, "stopped", 3000);
    cr_assert(eq(u32, world.server.n_deletes, 1));
    cr_assert(eq(str, world.heard, (char *)"taken 1/4 down stopped"));
    close_world(&world);
}
