/* Several jobs at one instance: turns, tries, silence and interrupts, against a server in this
 * process whose jobs a test moves on by hand. */
#include "tests/unit/driver_world.h"

/* A job "J<serial>" at the server. */
struct stub_job {
    bool there, deleted;
    uint32_t step;
    const char *state;
    struct http_exchange *poll; /* that waits for news */
};

struct stub {
    struct stub_job jobs[8];
    int submit_status; /* of the next POST */
    uint32_t n_deletes;
};

static void
say_job(struct world *world, struct http_exchange *exchange, uint32_t serial)
{
    const struct stub_job *job = &((struct stub *)world->stub)->jobs[serial];
    char text[256];
    bool over = strcmp(job->state, "succeeded") == 0;
    snprintf(text, sizeof text,
             "{\"id\":\"J%u\",\"epoch\":\"e\",\"state\":\"%s\",\"step\":%u,\"steps\":4%s}", serial,
             job->state, job->step, over ? ",\"images\":[{\"seed\":1}]" : "");
    answer(exchange, 200, text);
}

static void
on_poll_gone(void *context)
{
    ((struct stub_job *)context)->poll = NULL;
}

static uint32_t
serial_in(const char *text)
{
    uint32_t serial = (uint32_t)strtoul(text, NULL, 10);
    cr_assert(lt(u32, serial, 8));
    return serial;
}

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    const char *name = strstr(path, "/J");
    if (strcmp(path, "/healthz") == 0) {
        answer(exchange, 200, "{\"ready\":true,\"model\":\"m\",\"epoch\":\"e\"}");
        return;
    }
    if (http_method(exchange) == HTTP_POST) {
        json_t *body = body_of(exchange);
        uint32_t serial = serial_in(json_string_value(json_object_get(body, "id")) + 1);
        json_decref(body);
        if (stub->submit_status != 202) {
            answer(exchange, stub->submit_status, "{}");
            return;
        }
        stub->jobs[serial] = (struct stub_job){ .there = true, .state = "queued" };
        say_job(world, exchange, serial);
        return;
    }
    cr_assert(name != NULL, "%s", path);
    uint32_t serial = serial_in(name + 2);
    struct stub_job *job = &stub->jobs[serial];
    if (!job->there) {
        answer(exchange, 404, "{}");
    } else if (http_method(exchange) == HTTP_DELETE) {
        stub->n_deletes++;
        job->there = false;
        job->deleted = true;
        answer(exchange, 200, "{}");
    } else if (strstr(path, "/images/") != NULL) {
        http_respond(exchange, 200, "image/png", "picture", 7);
    } else {
        job->poll = exchange;
        http_on_gone(exchange, on_poll_gone, job);
    }
}

/* The server's job changes and its poll is answered. */
static void
move(struct world *world, uint32_t serial, const char *state, uint32_t step)
{
    struct stub_job *job = &((struct stub *)world->stub)->jobs[serial];
    int64_t end_ms = clock_mono_ms() + 5000;
    while (job->poll == NULL && clock_mono_ms() < end_ms) {
        turn_for(world, 2);
    }
    cr_assert(job->poll != NULL, "nobody asks for job %u; heard: %s", serial, world->heard);
    job->state = state;
    job->step = step;
    struct http_exchange *exchange = job->poll;
    job->poll = NULL;
    say_job(world, exchange, serial);
}

static int
give_sized(struct world *world, uint32_t serial, uint16_t side)
{
    struct envelope envelope = { .width = side, .height = side, .steps = 4, .n = 1 };
    struct job_body body = { .prompt = { "fox", 3 }, .seed = 1 };
    struct draw_request request = { .serial = serial, .envelope = &envelope, .body = &body };
    snprintf(request.id, sizeof request.id, "J%u", serial);
    return instance_draw(world->supervisor, 0, &request);
}

static int
give(struct world *world, uint32_t serial)
{
    return give_sized(world, serial, 64);
}

static void
accepted_sized(struct world *world, uint32_t serial, uint16_t side)
{
    struct stub *stub = world->stub;
    int64_t end_ms = clock_mono_ms() + 5000;
    cr_assert(zero(int, give_sized(world, serial, side)));
    while (stub->jobs[serial].poll == NULL && clock_mono_ms() < end_ms) {
        turn_for(world, 2);
    }
    cr_assert(stub->jobs[serial].poll != NULL, "job %u is not asked for", serial);
}

static void
accepted(struct world *world, uint32_t serial)
{
    accepted_sized(world, serial, 64);
}

static void
open_queue(struct world *world, struct stub *stub, int64_t stuck_ms)
{
    *stub = (struct stub){ .submit_status = 202 };
    *world = (struct world){ .stub = stub, .on_request = on_request };
    open_world(world, "driver=drawbar", stuck_ms);
}

TestSuite(instance_queue, .timeout = 30);

Test(instance_queue, a_job_behind_another_is_no_try_before_its_turn)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    accepted(&world, 1);
    accepted(&world, 2);
    expect_heard(&world, "1:taken");
    move(&world, 1, "running", 4);
    turn_until(&world, "2:taken", 3000);
    move(&world, 2, "running", 1); /* while the first is encoded */
    turn_until(&world, "2:1/4", 3000);
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "1:drawn", 3000);
    expect_heard(&world, "1:taken 1:4/4 2:taken 2:1/4 1:drawn");
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    move(&world, 2, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "1:taken 1:4/4 2:taken 2:1/4 1:drawn 2:4/4 2:drawn ready");
    close_world(&world);
}

Test(instance_queue, a_step_of_the_second_tells_that_the_first_has_left_the_gpu)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    accepted(&world, 1);
    accepted(&world, 2);
    move(&world, 2, "running", 1); /* its poll is answered before that of the first */
    turn_until(&world, "2:1/4", 3000);
    expect_heard(&world, "1:taken 2:taken 2:1/4");
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "1:drawn", 3000);
    close_world(&world);
}

Test(instance_queue, one_more_than_it_holds_is_not_taken)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    for (uint32_t serial = 1; serial <= LIMIT_PLACE_JOBS; serial++) {
        cr_assert(zero(int, give(&world, serial)));
    }
    cr_assert(eq(int, give(&world, LIMIT_PLACE_JOBS + 1), -EBUSY));
    close_world(&world);
}

Test(instance_queue, an_instance_that_dies_charges_only_the_job_that_it_had_begun)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    accepted(&world, 1);
    accepted(&world, 2);
    http_server_destroy(&world.server);
    turn_until(&world, "down", 3000);
    expect_heard(&world, strstr(world.heard, "1:failed") < strstr(world.heard, "2:lost")
                             ? "1:taken 1:failed 2:lost down"
                             : "1:taken 2:lost 1:failed down");
    close_world(&world);
}

Test(instance_queue, the_job_behind_is_not_stuck_while_the_other_is_drawn)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 400); /* 800 ms for the first job */
    accepted(&world, 1);
    accepted(&world, 2);
    int64_t begun_ms = clock_mono_ms();
    for (uint32_t step = 1; step < 4; step++) {
        turn_for(&world, 350);
        move(&world, 1, "running", step);
    }
    turn_until(&world, "1:3/4", 3000);
    cr_assert(gt(i64, clock_mono_ms() - begun_ms, 1000), "longer than any silence is borne");
    cr_assert(strstr(world.heard, "failed") == NULL, "%s", world.heard);
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "2:taken", 3000);
    turn_until(&world, "2:failed", 6000);
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    close_world(&world);
}

Test(instance_queue, a_larger_picture_has_more_time_for_a_step_and_a_small_one_has_not)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 100);
    accepted(&world, 1);
    for (uint32_t step = 1; step < 4;
         step++) { /* so 60 ms are usual, or more if this host is slow */
        turn_for(&world, 60);
        move(&world, 1, "running", step);
    }
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    accepted_sized(&world, 2, 128);
    move(&world, 2, "running", 1);
    turn_for(&world, 1200); /* more than 10 usual steps of 64 x 64, less than 10 of 128 x 128 */
    cr_assert(strstr(world.heard, "2:failed") == NULL, "%s", world.heard);
    move(&world, 2, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    accepted(&world, 3);
    int64_t begun_ms = clock_mono_ms();
    turn_until(&world, "3:failed", 20000);
    cr_assert(ge(i64, clock_mono_ms() - begun_ms, 400), "more than 100 ms");
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    close_world(&world);
}

Test(instance_queue, pictures_on_their_way_give_a_hanging_job_no_more_time)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 3000); /* 6000 ms for the first job */
    accepted(&world, 1);
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    accepted(&world, 2);
    accepted(&world, 3);
    move(&world, 2, "running", 4); /* all steps are made: the third begins */
    turn_until(&world, "3:taken", 3000);
    int64_t begun_ms = clock_mono_ms();
    turn_for(&world, 2000);
    move(&world, 2, "succeeded", 4);
    turn_until(&world, "2:drawn", 3000);
    turn_until(&world, "3:failed", 9000);
    cr_assert(ge(i64, clock_mono_ms() - begun_ms, 3000));
    cr_assert(lt(i64, clock_mono_ms() - begun_ms, 4800), "no 3000 ms more from the picture on");
    close_world(&world);
}

Test(instance_queue, the_one_that_hangs_is_failed_and_the_one_behind_it_has_its_turn)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 300); /* 600 ms for the first job */
    accepted(&world, 1);
    accepted(&world, 2);
    turn_until(&world, "2:taken", 6000);
    expect_heard(&world, "1:taken 1:failed 2:taken");
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    cr_assert(stub.jobs[1].deleted && !stub.jobs[2].deleted);
    move(&world, 2, "succeeded", 4);
    turn_until(&world, "2:drawn", 3000);
    close_world(&world);
}

Test(instance_queue, a_full_queue_refuses_the_second_and_the_first_goes_on)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    accepted(&world, 1);
    stub.submit_status = 429;
    cr_assert(zero(int, give(&world, 2)));
    turn_until(&world, "2:refused", 3000);
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "1:taken 2:refused 1:4/4 1:drawn ready");
    close_world(&world);
}

Test(instance_queue, an_interrupt_takes_the_queued_job_and_leaves_the_drawn_one)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    accepted(&world, 1);
    accepted(&world, 2);
    instance_interrupt(world.supervisor, 0, 2);
    move(&world, 1, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "1:taken 1:4/4 1:drawn ready");
    cr_assert(stub.jobs[2].deleted);
    close_world(&world);
}

Test(instance_queue, an_interrupt_of_the_drawn_job_gives_the_queued_one_its_turn)
{
    struct world world;
    struct stub stub;
    open_queue(&world, &stub, 60000);
    accepted(&world, 1);
    accepted(&world, 2);
    instance_interrupt(world.supervisor, 0, 1);
    turn_until(&world, "2:taken", 3000);
    cr_assert(stub.jobs[1].deleted && !stub.jobs[2].deleted);
    move(&world, 2, "succeeded", 4);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "1:taken 2:taken 2:4/4 2:drawn ready");
    close_world(&world);
}
