/* One-coloured pictures: when they are a row, the self-test that follows, and what comes of it.
 * Against a server in this process that draws what a test says. */
#include "tests/unit/driver_world.h"
#include "worker/instance/sim_picture.h"

struct stub {
    enum sim_picture_kind kind; /* of its pictures */
    const char *error;          /* its jobs fail with this message; NULL: they are drawn */
    bool holds;                 /* its jobs are not drawn yet */
    int submit_status;
    uint32_t max_pixels;
    uint32_t n_jobs, n_tests; /* taken so far; of these, self-tests */
    struct http_exchange *poll;
    json_t *last; /* as it was sent */
};

static const char *
last_id(const struct stub *stub)
{
    return json_string_value(json_object_get(stub->last, "id"));
}

static int
last_number(const struct stub *stub, const char *key)
{
    return (int)json_integer_value(json_object_get(stub->last, key));
}

static void
answer_picture(const struct stub *stub, struct http_exchange *exchange)
{
    uint8_t *bytes = NULL;
    size_t length = 0;
    struct sim_picture picture = {
        .prompt = json_string_value(json_object_get(stub->last, "prompt")),
        .seed = (uint32_t)last_number(stub, "seed"),
        .width = (uint32_t)last_number(stub, "width"),
        .height = (uint32_t)last_number(stub, "height"),
        .kind = stub->kind,
    };
    cr_assert(zero(int, sim_picture_draw(&picture, &bytes, &length)));
    http_respond_take(exchange, 200, "image/png", bytes, length);
}

static void
answer_view(const struct stub *stub, struct http_exchange *exchange)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"id\":\"x\",\"epoch\":\"e\",\"state\":\"%s\",\"step\":8,\"steps\":8,%s"
             "\"error\":{\"code\":\"generation_failed\",\"message\":\"%s\"}}",
             stub->error != NULL ? "failed" : "succeeded",
             stub->error != NULL ? "" : "\"images\":[{\"seed\":1}],",
             stub->error != NULL ? stub->error : "");
    answer(exchange, 200, text);
}

static void
on_poll_gone(void *context)
{
    ((struct stub *)context)->poll = NULL;
}

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    if (strcmp(path, "/healthz") == 0) {
        char text[128];
        snprintf(text, sizeof text,
                 "{\"ready\":true,\"model\":\"m\",\"epoch\":\"e\",\"max_pixels\":%u}",
                 stub->max_pixels);
        answer(exchange, 200, text);
    } else if (http_method(exchange) == HTTP_POST) {
        json_decref(stub->last);
        stub->last = body_of(exchange);
        stub->n_jobs++;
        stub->n_tests += strncmp(last_id(stub), "selftest.", 9) == 0;
        answer(exchange, stub->submit_status,
               stub->submit_status == 202
                   ? "{\"id\":\"x\",\"state\":\"queued\",\"epoch\":\"e\"}"
                   : "{\"error\":{\"code\":\"queue_full\",\"message\":\"others wait\"}}");
    } else if (http_method(exchange) == HTTP_DELETE) {
        answer(exchange, 200, "{}");
    } else if (strstr(path, "/images/") != NULL) {
        answer_picture(stub, exchange);
    } else if (stub->holds) {
        stub->poll = exchange;
        http_on_gone(exchange, on_poll_gone, stub);
    } else {
        answer_view(stub, exchange);
    }
}

static void
open_stub(struct world *world, struct stub *stub)
{
    *stub = (struct stub){ .submit_status = 202, .max_pixels = 2048 * 2048 };
    *world = (struct world){ .stub = stub, .on_request = on_request };
    open_world(world, "driver=drawbar", 60000);
}

static void
close_stub(struct world *world, struct stub *stub)
{
    close_world(world);
    json_decref(stub->last);
}

static void
judge(struct world *world, enum judgement_kind kind, uint8_t job)
{
    struct judgement judgement = { .kind = kind, .message = "bad", .job.bytes = { job } };
    instance_judge(world->supervisor, 0, &judgement);
}

/* Pictures of three jobs, so that a self-test is due. */
static void
fill_row(struct world *world)
{
    for (uint32_t job = 1; job <= LIMIT_UNIFORM_JOBS; job++) {
        judge(world, JUDGED_UNIFORM, (uint8_t)job);
    }
}

static void
expect_no_test(struct world *world, const struct stub *stub)
{
    turn_for(world, 1200); /* a health check comes within a second */
    cr_assert(zero(u32, stub->n_tests));
    cr_assert(eq(int, instance_state(world->supervisor, 0), INSTANCE_READY));
}

static int
try_to_draw(struct world *world)
{
    struct envelope envelope = { .width = 64, .height = 64, .steps = 8, .n = 1 };
    struct job_body body = { .prompt = { "fox", 3 } };
    struct draw_request request = {
        .id = "J.9", .serial = 9, .envelope = &envelope, .body = &body
    };
    return instance_draw(world->supervisor, 0, &request);
}

TestSuite(instance_selftest, .timeout = 40);

Test(instance_selftest, two_jobs_are_no_row_however_often_they_are_drawn)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    for (int i = 0; i < 5; i++) {
        judge(&world, JUDGED_UNIFORM, 1);
        judge(&world, JUDGED_UNIFORM, 2);
    }
    expect_no_test(&world, &stub);
    close_stub(&world, &stub);
}

Test(instance_selftest, another_picture_between_them_ends_the_row)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    judge(&world, JUDGED_UNIFORM, 1);
    judge(&world, JUDGED_UNIFORM, 2);
    judge(&world, JUDGED_GOOD, 3);
    judge(&world, JUDGED_UNIFORM, 4);
    judge(&world, JUDGED_UNIFORM, 5);
    judge(&world, JUDGED_BAD, 6);
    judge(&world, JUDGED_UNIFORM, 1);
    judge(&world, JUDGED_UNIFORM, 2);
    expect_no_test(&world, &stub);
    close_stub(&world, &stub);
}

Test(instance_selftest, three_jobs_in_a_row_and_it_draws_for_us_and_goes_on_if_that_is_good)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    fill_row(&world);
    cr_assert(eq(int, try_to_draw(&world), -EBUSY), "from now on");
    turn_until(&world, "busy", 3000);
    expect_reason(&world, "self-test: its pictures of 3 jobs in a row had one colour");
    turn_until(&world, "ready", 5000);
    expect_heard(&world, "busy ready"); /* of its steps and its picture nobody is told */
    expect_reason(&world, "");
    cr_assert(eq(u32, stub.n_tests, 1));
    cr_assert(eq(int, last_number(&stub, "width"), 512));
    cr_assert(eq(int, last_number(&stub, "height"), 512));
    cr_assert(eq(int, last_number(&stub, "steps"), 8));
    cr_assert(eq(int, last_number(&stub, "n"), 1));
    judge(&world, JUDGED_UNIFORM, 7); /* the count begins anew */
    judge(&world, JUDGED_UNIFORM, 8);
    turn_for(&world, 1200);
    cr_assert(eq(u32, stub.n_tests, 1));
    judge(&world, JUDGED_UNIFORM, 9);
    turn_until(&world, "ready", 5000);
    cr_assert(eq(u32, stub.n_tests, 2));
    close_stub(&world, &stub);
}

Test(instance_selftest, an_attached_one_that_fails_it_is_out_and_tested_again_before_its_next_job)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.kind = SIM_PICTURE_BLACK;
    fill_row(&world);
    for (int i = 0; i < 3; i++) {
        turn_until(&world, "down", 8000);
        int64_t down_ms = clock_mono_ms();
        expect_reason(&world, "self-test: one colour");
        cr_assert(eq(int, try_to_draw(&world), -EBUSY));
        turn_until(&world, "busy", 8000);
        cr_assert(ge(i64, clock_mono_ms() - down_ms, LIMIT_RESTART_MIN_MS << i),
                  "longer each time");
    }
    turn_until(&world, "down", 8000);
    stub.kind = SIM_PICTURE_GOOD;
    world.heard[0] = '\0';
    turn_until(&world, "ready", 10000);
    expect_heard(&world, "busy ready");
    expect_reason(&world, "");
    cr_assert(eq(u32, stub.n_jobs, stub.n_tests), "no job was given to it");
    cr_assert(zero(int, try_to_draw(&world)));
    turn_until(&world, "9:drawn", 3000);
    close_stub(&world, &stub);
}

Test(instance_selftest, garbage_another_size_and_an_error_fail_it_too)
{
    static const struct {
        enum sim_picture_kind kind;
        const char *error, *reason;
    } cases[] = {
        { SIM_PICTURE_WRONG_SIZE, NULL, "self-test: asked 512x512, got 528x512" },
        { SIM_PICTURE_GOOD, "no luck", "self-test: generation_failed: no luck" },
        { SIM_PICTURE_GARBAGE, NULL, "self-test: " },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct world world;
        struct stub stub;
        open_stub(&world, &stub);
        stub.kind = cases[i].kind;
        stub.error = cases[i].error;
        fill_row(&world);
        turn_until(&world, "down", 5000);
        expect_heard(&world, "busy down");
        if (cases[i].kind != SIM_PICTURE_GARBAGE) {
            expect_reason(&world, cases[i].reason);
        }
        stub.kind = SIM_PICTURE_GOOD;
        stub.error = NULL;
        turn_until(&world, "ready", 5000);
        close_stub(&world, &stub);
    }
}

Test(instance_selftest, it_is_no_larger_than_the_instance_can_draw)
{
    static const uint32_t limits[][2] = {
        { 0, 512 }, { 512 * 512 - 1, 496 }, { 256 * 256, 256 }, { 100 * 100, 96 }, { 1, 64 },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        struct world world;
        struct stub stub;
        open_stub(&world, &stub);
        stub.max_pixels = limits[i][0];
        fill_row(&world);
        turn_until(&world, "ready", 5000);
        cr_assert(eq(int, last_number(&stub, "width"), (int)limits[i][1]));
        cr_assert(eq(int, last_number(&stub, "height"), (int)limits[i][1]));
        close_stub(&world, &stub);
    }
}

Test(instance_selftest, a_server_that_is_busy_has_not_failed_it)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.submit_status = 429;
    fill_row(&world);
    turn_until(&world, "down", 3000);
    expect_reason(&world, "takes no job: HTTP 429: others wait");
    stub.submit_status = 202;
    turn_until(&world, "ready", 5000);
    cr_assert(eq(u32, stub.n_tests, 2));
    close_stub(&world, &stub);
}

Test(instance_selftest, what_it_draws_is_finished_first_and_nothing_is_queued_behind_it)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.holds = true;
    cr_assert(zero(int, try_to_draw(&world)));
    turn_until(&world, "9:taken", 3000);
    while (stub.poll == NULL) {
        turn_for(&world, 5);
    }
    fill_row(&world);
    turn_for(&world, 300);
    cr_assert(zero(u32, stub.n_tests));
    cr_assert(eq(int, try_to_draw(&world), -EBUSY));
    stub.holds = false;
    struct http_exchange *exchange = stub.poll;
    stub.poll = NULL;
    answer_view(&stub, exchange);
    turn_until(&world, "ready", 5000);
    expect_heard(&world, "9:taken 9:8/8 9:drawn ready"); /* busy all the time */
    cr_assert(eq(u32, stub.n_tests, 1));
    close_stub(&world, &stub);
}

Test(instance_selftest, no_job_of_the_agent_can_interrupt_it)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.holds = true;
    fill_row(&world);
    while (stub.poll == NULL) {
        turn_for(&world, 5);
    }
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 100);
    cr_assert(stub.poll != NULL);
    close_stub(&world, &stub); /* and it may end in the middle of it */
}
