/* The driver `sdapi`: AUTOMATIC1111's API. */
#include "tests/unit/driver_world.h"

struct stub {
    int status; /* of txt2img */
    const char *body;
    bool waits;       /* txt2img is answered later */
    bool no_progress; /* like sd-server and others */
    bool is_sd_server;
    bool draws_on; /* whether or not anybody waits for it */
    int step;      /* told by progress */
    uint32_t n_draws, n_interrupts;
    char asked[2048];
    char authorization[128];
};

static void
txt2img(struct world *world, struct http_exchange *exchange)
{
    struct stub *stub = world->stub;
    char picture[64];
    char text[128];
    json_t *body = body_of(exchange);
    char *dump = json_dumps(body, JSON_SORT_KEYS);
    snprintf(stub->asked, sizeof stub->asked, "%s", dump);
    free(dump);
    json_decref(body);
    stub->n_draws++;
    if (stub->waits) {
        hold(world, exchange);
        return;
    }
    snprintf(text, sizeof text, "picture %u", stub->n_draws);
    base64(text, picture, sizeof picture);
    snprintf(text, sizeof text, "{\"images\":[\"%s\"],\"info\":\"\"}", picture);
    answer(exchange, stub->status, stub->body != NULL ? stub->body : text);
}

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    char text[256];
    const char *authorization = http_header(exchange, "Authorization");
    snprintf(stub->authorization, sizeof stub->authorization, "%s",
             authorization == NULL ? "" : authorization);
    if (strcmp(path, "/sdapi/v1/options") == 0) {
        answer(exchange, 200, "{\"sd_model_checkpoint\":\"z-image [abc]\"}");
    } else if (strcmp(path, "/sdapi/v1/txt2img") == 0) {
        txt2img(world, exchange);
    } else if (strcmp(path, "/sdapi/v1/progress") == 0 && !stub->no_progress) {
        snprintf(text, sizeof text,
                 "{\"progress\":0,\"state\":{\"job_count\":%d,\"sampling_step\":%d,"
                 "\"sampling_steps\":8}}",
                 world->held != NULL || stub->draws_on, stub->step);
        answer(exchange, 200, text);
    } else if (strcmp(path, "/sdapi/v1/interrupt") == 0 && !stub->no_progress) {
        stub->n_interrupts++;
        answer(exchange, 200, "{}");
    } else if (strcmp(path, "/sdcpp/v1/capabilities") == 0 && stub->is_sd_server) {
        answer(exchange, 200, "{\"model\":{\"stem\":\"z-image\"}}");
    } else {
        answer(exchange, 404, "{\"detail\":\"Not Found\"}");
    }
}

static void
open_sdapi(struct world *world, struct stub *stub, const char *words, int64_t stuck_ms)
{
    *world = (struct world){ .stub = stub, .on_request = on_request };
    stub->status = 200;
    open_world(world, words, stuck_ms);
}

TestSuite(driver_sdapi, .timeout = 30);

Test(driver_sdapi, pictures_are_drawn_one_by_one_with_their_seeds)
{
    struct world world;
    struct stub stub = { 0 };
    open_sdapi(&world, &stub, "driver=sdapi user=me password=it:is", 60000);
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"z-image [abc]"));
    cr_assert(eq(str, stub.authorization, (char *)"Basic bWU6aXQ6aXM="));
    world.guidance = 2.5;
    world.negative = "blur";
    draw(&world, 2, UINT32_MAX);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken drawn ready");
    expect_picture(&world, 0, "picture 1", UINT32_MAX);
    expect_picture(&world, 1, "picture 2", 0);
    cr_assert(eq(str, stub.asked,
                 (char *)"{\"batch_size\": 1, \"cfg_scale\": 3.5, \"height\": 64, \"n_iter\": 1, "
                         "\"negative_prompt\": \"blur\", \"override_settings\": "
                         "{\"samples_format\": \"png\"}, \"prompt\": \"a \\\"red\\\" fox\", "
                         "\"save_images\": false, \"seed\": 0, \"send_images\": true, "
                         "\"steps\": 8, \"width\": 128}"));
    close_world(&world);
}

/* sd-server takes a seed above 2^31 for "random" in `seed`, and obeys words in the prompt. */
Test(driver_sdapi, an_sd_server_is_told_the_seed_where_it_takes_32_bits)
{
    struct world world;
    struct stub stub = { .no_progress = true, .is_sd_server = true };
    open_sdapi(&world, &stub, "driver=sdapi", 60000);
    world.guidance = 2.5;
    world.negative = "blur </sd_cpp_extra_args>";
    draw(&world, 1, UINT32_MAX);
    turn_until(&world, "ready", 3000);
    json_t *asked = json_loads(stub.asked, 0, NULL);
    cr_assert(eq(str, (char *)json_string_value(json_object_get(asked, "prompt")),
                 (char *)"<sd_cpp_extra_args>{\"seed\":4294967295,\"sample_params\":"
                         "{\"sample_steps\":8,\"guidance\":{\"txt_cfg\":3.5}},"
                         "\"negative_prompt\":\"blur <\\/sd_cpp_extra_args>\"}"
                         "</sd_cpp_extra_args>a \"red\" fox"));
    json_decref(asked);
    close_world(&world);
    struct stub other = { .no_progress = true };
    open_sdapi(&world, &other, "driver=sdapi", 60000);
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    cr_assert(strstr(other.asked, "sd_cpp") == NULL, "%s", other.asked);
    close_world(&world);
}

Test(driver_sdapi, steps_come_from_progress)
{
    struct world world;
    struct stub stub = { .waits = true, .step = 3 };
    open_sdapi(&world, &stub, "driver=sdapi", 60000);
    draw(&world, 1, 7);
    turn_until(&world, "3/8", 3000);
    stub.step = 6;
    turn_until(&world, "6/8", 3000);
    answer(release(&world), 200, "{\"images\":[\"data:image/png;base64,cGlj\"]}");
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken 3/8 6/8 drawn ready");
    expect_picture(&world, 0, "pic", 7);
    close_world(&world);
}

Test(driver_sdapi, an_interrupt_is_repeated_until_the_drawing_is_answered)
{
    struct world world;
    struct stub stub = { .waits = true, .step = 3 };
    open_sdapi(&world, &stub, "driver=sdapi", 60000);
    draw(&world, 1, 7);
    turn_until(&world, "3/8", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 1300);
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    cr_assert(ge(u32, stub.n_interrupts, 2));
    answer(release(&world), 200, "{\"images\":[\"cGlj\"]}");
    turn_until(&world, "ready", 1000);
    expect_heard(&world, "taken 3/8 ready");
    close_world(&world);
}

Test(driver_sdapi, a_server_without_interrupt_is_busy_until_it_answers)
{
    struct world world;
    struct stub stub = { .waits = true, .no_progress = true };
    open_sdapi(&world, &stub, "driver=sdapi", 300);
    draw(&world, 2, 7);
    turn_until(&world, "taken", 3000);
    turn_for(&world, 1000); /* no steps, and yet not stuck */
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 300);
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    answer(release(&world), 200, "{\"images\":[\"cGlj\"]}");
    turn_until(&world, "ready", 1000);
    expect_heard(&world, "taken ready");
    cr_assert(eq(u32, stub.n_draws, 1), "the second picture is not begun");
    cr_assert(zero(u32, stub.n_interrupts));
    close_world(&world);
}

Test(driver_sdapi, a_hang_is_stuck_and_interrupted)
{
    struct world world;
    struct stub stub = { .waits = true, .step = 3 };
    open_sdapi(&world, &stub, "driver=sdapi", 400);
    draw(&world, 1, 7);
    turn_until(&world, "failed", 5000);
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    turn_for(&world, 300);
    cr_assert(ge(u32, stub.n_interrupts, 1));
    close_world(&world);
}

Test(driver_sdapi, killed_while_it_draws)
{
    struct world world;
    struct stub stub = { .waits = true, .step = 3 };
    open_sdapi(&world, &stub, "driver=sdapi", 60000);
    draw(&world, 1, 7);
    turn_until(&world, "3/8", 3000);
    kill_and_come_back(&world);
    close_world(&world);
}

Test(driver_sdapi, a_lost_answer_keeps_it_busy_until_the_server_says_that_it_draws_no_more)
{
    struct world world;
    struct stub stub = { .waits = true, .draws_on = true, .step = 3 };
    open_sdapi(&world, &stub, "driver=sdapi", 60000);
    draw(&world, 1, 7);
    turn_until(&world, "3/8", 3000);
    uint16_t port = http_server_port(world.server);
    http_server_destroy(&world.server); /* every connection is cut, and yet it draws on */
    world.held = NULL;
    serve(&world, port);
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_DIED, true, false);
    turn_for(&world, 1300);
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    cr_assert(ge(u32, stub.n_interrupts, 2), "it is told to stop, and told again");
    stub.draws_on = false;
    turn_until(&world, "ready", 4000);
    expect_heard(&world, "taken 3/8 failed ready");
    cr_assert(eq(u32, stub.n_draws, 1));
    close_world(&world);
}

Test(driver_sdapi, errors_and_garbage)
{
    struct world world;
    struct stub stub = { 0 };
    open_sdapi(&world, &stub, "driver=sdapi", 60000);
    stub.status = 422;
    stub.body = "{\"detail\":[{\"loc\":[\"body\",\"steps\"],\"msg\":\"too many\"}]}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_REFUSED, false, true);
    cr_assert(eq(str, world.message, (char *)"HTTP 422: too many"));
    stub.status = 500;
    stub.body = "{\"error\":\"OutOfMemoryError\",\"errors\":\"CUDA out of memory\"}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    cr_assert(eq(str, world.message, (char *)"HTTP 500: OutOfMemoryError"));
    stub.status = 200;
    stub.body = "{\"images\":[\"not base64!\"]}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_BAD_PICTURE, true, false);
    stub.body = NULL;
    draw(&world, 1, 7); /* forgets the errors */
    turn_until(&world, "ready", 3000);
    stub.body = "<html>";
    draw(&world, 1, 7);
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_BAD_PICTURE, true, false);
    close_world(&world);
}
