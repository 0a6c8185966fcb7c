/* The driver `sdcpp`: stable-diffusion.cpp's own API. */
#include "tests/unit/driver_world.h"

struct stub {
    int submit_status;
    const char *submit_body;
    const char *view; /* of the job */
    int view_status;
    bool stops;        /* its capabilities say that it can stop a drawing */
    const char *modes; /* of its model; NULL: not told */
    uint32_t n_submits, n_cancels;
    char asked[2048];
};

#define VIEW(rest) "{\"id\":\"job_1\"," rest "}"
#define QUEUED     VIEW("\"status\":\"queued\",\"queue_position\":1,\"result\":null")
#define GENERATING VIEW("\"status\":\"generating\",\"result\":null")
#define COMPLETED                                                                                  \
    VIEW("\"status\":\"completed\",\"result\":{\"images\":[{\"index\":0,\"b64_json\":\"cGlj\"}]}")

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    char text[512];
    if (strcmp(path, "/sdcpp/v1/capabilities") == 0) {
        snprintf(text, sizeof text,
                 "{\"model\":{\"name\":\"z.gguf\",\"stem\":\"z\"},\"features\":{"
                 "\"cancel_queued\":true,\"cancel_generating\":%s},\"supported_modes\":%s,"
                 "\"limits\":{\"max_width\":4096,\"max_height\":2048}}",
                 stub->stops ? "true" : "false", stub->modes != NULL ? stub->modes : "null");
        answer(exchange, 200, text);
    } else if (strcmp(path, "/sdcpp/v1/img_gen") == 0) {
        json_t *body = body_of(exchange);
        char *dump = json_dumps(body, JSON_SORT_KEYS);
        snprintf(stub->asked, sizeof stub->asked, "%s", dump);
        free(dump);
        json_decref(body);
        stub->n_submits++;
        answer(exchange, stub->submit_status, stub->submit_body);
    } else if (strcmp(path, "/sdcpp/v1/jobs/job_1") == 0) {
        answer(exchange, stub->view_status, stub->view);
    } else if (strcmp(path, "/sdcpp/v1/jobs/job_1/cancel") == 0) {
        stub->n_cancels++;
        bool queued = strcmp(stub->view, QUEUED) == 0;
        stub->view = queued ? VIEW("\"status\":\"cancelled\"") : stub->view;
        answer(exchange, queued ? 200 : 409, "{}");
    } else {
        answer(exchange, 404, "{}");
    }
}

static void
open_sdcpp(struct world *world, struct stub *stub)
{
    *world = (struct world){ .stub = stub, .on_request = on_request };
    stub->submit_status = 202;
    stub->submit_body = QUEUED;
    stub->view_status = 200;
    open_world(world, "driver=sdcpp", 400);
}

TestSuite(driver_sdcpp, .timeout = 30);

Test(driver_sdcpp, pictures_are_drawn_one_by_one_with_their_seeds)
{
    struct world world;
    struct stub stub = { .view = COMPLETED };
    open_sdcpp(&world, &stub);
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"z"));
    cr_assert(eq(u32, instance_max_pixels(world.supervisor, 0), 4096 * 2048));
    draw(&world, 2, 7);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken drawn ready");
    expect_picture(&world, 0, "pic", 7);
    expect_picture(&world, 1, "pic", 8);
    cr_assert(eq(str, stub.asked,
                 (char *)"{\"batch_count\": 1, \"embed_image_metadata\": false, \"height\": 64, "
                         "\"output_format\": \"png\", \"prompt\": \"a \\\"red\\\" fox\", "
                         "\"sample_params\": {\"guidance\": {\"txt_cfg\": 1.0}, "
                         "\"sample_steps\": 8}, \"seed\": 8, \"width\": 128}"));
    close_world(&world);
}

Test(driver_sdcpp, a_queued_job_is_cancelled)
{
    struct world world;
    struct stub stub = { .view = QUEUED };
    open_sdcpp(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 2000);
    expect_heard(&world, "taken ready");
    cr_assert(eq(u32, stub.n_cancels, 1));
    close_world(&world);
}

Test(driver_sdcpp, a_running_job_is_waited_for_and_thrown_away)
{
    struct world world;
    struct stub stub = { .view = GENERATING };
    open_sdcpp(&world, &stub);
    draw(&world, 2, 7);
    turn_until(&world, "taken", 3000);
    turn_for(&world, 1000); /* no steps, and yet not stuck */
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 600);
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    stub.view = COMPLETED;
    turn_until(&world, "ready", 2000);
    expect_heard(&world, "taken ready");
    cr_assert(eq(u32, stub.n_submits, 1));
    close_world(&world);
}

Test(driver_sdcpp, an_interrupt_during_the_submit_waits_for_the_id)
{
    struct world world;
    struct stub stub = { .view = QUEUED };
    open_sdcpp(&world, &stub);
    draw(&world, 1, 7);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 2000);
    expect_heard(&world, "ready");
    cr_assert(eq(u32, stub.n_submits, 1));
    cr_assert(eq(u32, stub.n_cancels, 1));
    close_world(&world);
}

Test(driver_sdcpp, killed_while_it_draws)
{
    struct world world;
    struct stub stub = { .view = GENERATING };
    open_sdcpp(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    kill_and_come_back(&world);
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    stub.view_status = 404; /* restarted so fast that nobody noticed */
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_DIED, true, false);
    close_world(&world);
}

Test(driver_sdcpp, a_picture_that_was_not_fetched_in_time_is_not_called_a_restart)
{
    struct world world;
    struct stub stub = { .view = "{\"error\":\"job expired\"}" };
    open_sdcpp(&world, &stub);
    stub.view_status = 410;
    draw(&world, 1, 7);
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    cr_assert(
        eq(str, world.message, (char *)"has thrown the picture away: it was not fetched in time"));
    close_world(&world);
}

Test(driver_sdcpp, a_server_with_a_model_for_videos_is_given_no_job)
{
    struct world world;
    struct stub stub = { .modes = "[\"vid_gen\",\"img_gen\"]" };
    open_sdcpp(&world, &stub);
    stub.modes = "[\"vid_gen\"]"; /* started anew with another model */
    turn_until(&world, "down", 20000);
    stub.modes = "[\"img_gen\"]";
    turn_until(&world, "ready", 20000);
    close_world(&world);
}

Test(driver_sdcpp, errors_and_garbage)
{
    struct world world;
    struct stub stub = { .view = COMPLETED };
    open_sdcpp(&world, &stub);
    stub.submit_status = 400;
    stub.submit_body = "{\"error\":\"bad size\"}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_REFUSED, false, true);
    stub.submit_status = 202;
    stub.submit_body = "{\"id\":\"../escape\"}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    stub.submit_body = QUEUED;
    stub.view = VIEW("\"status\":\"failed\",\"error\":{\"message\":\"empty results\"}");
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(str, world.message, (char *)"failed: empty results"));
    stub.submit_status = 429; /* one more error would take it out; this is none */
    draw(&world, 1, 7);
    turn_until(&world, "ready", 4000);
    expect_heard(&world, "failed down ready");
    stub.submit_status = 202;
    stub.view = "[]";
    draw(&world, 1, 7);
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    close_world(&world);
}
