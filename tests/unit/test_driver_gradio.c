/* The driver `gradio`: what it learns of an app, and its stream of events. */
#include "tests/unit/driver_world.h"

struct stub {
    const char *inputs;    /* of /info, one function "/draw" */
    const char *functions; /* more of them */
    bool generator;
    const char *app_id;
    int join_status;
    const char *join_body;
    bool silent; /* the stream says nothing by itself */
    uint32_t n_joins, n_cancels;
    char data[1024];
    char fetched[256];
};

#define PARAMETER(name, label, fallback)                                                           \
    "{\"parameter_name\":\"" name "\",\"label\":\"" label                                          \
    "\",\"parameter_has_default\":true,\"parameter_default\":" fallback "}"
#define INPUTS                                                                                     \
    PARAMETER("prompt", "Prompt", "\"\"")                                                          \
    "," PARAMETER("param_1", "Height", "1024") "," PARAMETER(                                      \
        "param_2", "Width",                                                                        \
        "1024") "," PARAMETER("num_inference_steps", "Steps",                                      \
                              "9") "," PARAMETER("seed", "Seed",                                   \
                                                 "42") "," PARAMETER("randomize_seed", "Random",   \
                                                                     "true") "," PARAMETER("shif"  \
                                                                                           "t",    \
                                                                                           "Time " \
                                                                                           "shif"  \
                                                                                           "t",    \
                                                                                           "3.0")
#define EVENT(text) "data: " text "\n\n"
#define STARTS      EVENT("{\"msg\":\"process_starts\",\"event_id\":\"e1\"}")
#define PROGRESS(n)                                                                                \
    EVENT("{\"msg\":\"progress\",\"progress_data\":[{\"index\":" #n ",\"length\":8}]}")
#define COMPLETED                                                                                  \
    EVENT("{\"msg\":\"process_completed\",\"success\":true,\"output\":{\"data\":[{\"image\":"      \
          "{\"path\":\"/tmp/a b/x.png\",\"url\":\"http://other/\"}},7]}}")

static void
say(struct world *world, const char *text)
{
    cr_assert(world->held != NULL);
    cr_assert(http_stream_send(world->held, text, strlen(text)));
}

static void
describe(struct stub *stub, struct http_exchange *exchange, bool config)
{
    char text[4096];
    if (config) {
        snprintf(text, sizeof text,
                 "{\"version\":\"6.31.0\",\"api_prefix\":\"/gradio_api\",\"app_id\":%s,"
                 "\"components\":[{\"id\":0,\"type\":\"state\"}],\"dependencies\":[{\"id\":5,"
                 "\"api_name\":\"draw\",\"inputs\":[1,0,2,3,4,5,6,7],\"outputs\":[8],"
                 "\"types\":{\"generator\":%s}}]}",
                 stub->app_id, stub->generator ? "true" : "false");
    } else {
        snprintf(text, sizeof text,
                 "{\"named_endpoints\":{%s\"/draw\":{\"parameters\":[%s],\"returns\":["
                 "{\"component\":\"Gallery\"}]}}}",
                 stub->functions, stub->inputs);
    }
    answer(exchange, 200, text);
}

static void
on_join(struct stub *stub, struct http_exchange *exchange)
{
    json_t *body = body_of(exchange);
    char *dump = json_dumps(json_object_get(body, "data"), JSON_COMPACT);
    snprintf(stub->data, sizeof stub->data, "%s", dump);
    cr_assert(eq(int, (int)json_integer_value(json_object_get(body, "fn_index")), 5));
    free(dump);
    json_decref(body);
    stub->n_joins++;
    answer(exchange, stub->join_status, stub->join_body);
}

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    char text[64];
    if (strcmp(path, "/config") == 0 || strcmp(path, "/gradio_api/info") == 0) {
        describe(stub, exchange, strcmp(path, "/config") == 0);
    } else if (strcmp(path, "/gradio_api/app_id") == 0) {
        snprintf(text, sizeof text, "{\"app_id\":%s}", stub->app_id);
        answer(exchange, 200, text);
    } else if (strcmp(path, "/gradio_api/queue/join") == 0) {
        on_join(stub, exchange);
    } else if (strcmp(path, "/gradio_api/queue/data") == 0) {
        world->held = exchange;
        http_stream_start(exchange);
        http_on_gone(exchange, world_on_gone, world);
        if (!stub->silent) {
            say(world, EVENT("{\"msg\":\"estimation\",\"rank\":0}") STARTS COMPLETED);
        }
    } else if (strcmp(path, "/gradio_api/cancel") == 0) {
        stub->n_cancels++;
        answer(exchange, 200, "{\"success\":true}");
        say(world, EVENT("{\"msg\":\"process_completed\",\"success\":true,\"output\":{}}"));
    } else if (strncmp(path, "/gradio_api/file=", 17) == 0) {
        snprintf(stub->fetched, sizeof stub->fetched, "%s", path);
        http_respond(exchange, 200, "image/png", "pic", 3);
    } else {
        answer(exchange, 404, "{}");
    }
}

static void
open_gradio(struct world *world, struct stub *stub, const char *words)
{
    *world = (struct world){ .stub = stub, .on_request = on_request };
    stub->inputs = INPUTS;
    stub->functions = stub->functions == NULL ? "" : stub->functions;
    stub->app_id = "18446744073709551615"; /* as large as they come */
    stub->join_status = 200;
    stub->join_body = "{\"event_id\":\"e1\"}";
    open_world(world, words, 400);
}

/* Until the app has the job in its queue. */
static void
turn_until_joined(struct world *world, uint32_t n_joins)
{
    struct stub *stub = world->stub;
    for (int i = 0; i < 100 && (stub->n_joins < n_joins || world->held == NULL); i++) {
        turn_for(world, 20);
    }
    cr_assert(eq(u32, stub->n_joins, n_joins));
}

TestSuite(driver_gradio, .timeout = 30);

Test(driver_gradio, the_function_and_its_arguments_are_learned)
{
    struct world world;
    struct stub stub = { 0 };
    open_gradio(&world, &stub, "driver=gradio model=z extra_steps=1");
    draw(&world, 2, 7);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken drawn ready");
    expect_picture(&world, 0, "pic", 7);
    expect_picture(&world, 1, "pic", 8);
    /* the hidden state is null, and what has no meaning has the app's own value */
    cr_assert(eq(str, stub.data, (char *)"[\"a \\\"red\\\" fox\",null,64,128,9,8,false,3.0]"));
    cr_assert(eq(str, stub.fetched, (char *)"/gradio_api/file=/tmp/a%20b/x.png"));
    close_world(&world);
}

Test(driver_gradio, progress_is_told_also_when_its_bytes_come_in_pieces)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio");
    draw(&world, 1, 7);
    turn_until_joined(&world, 1);
    say(&world, STARTS "da");
    turn_for(&world, 50);
    say(&world, &PROGRESS(3)[2]);
    turn_until(&world, "3/8", 3000);
    say(&world, PROGRESS(5) PROGRESS(6) ": a comment\n\n" COMPLETED);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken 3/8 5/8 6/8 drawn ready");
    turn_for(&world, 50);
    cr_assert(world.gone, "the stream is closed by us");
    close_world(&world);
}

Test(driver_gradio, a_waiting_job_is_cancelled)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio");
    draw(&world, 2, 7);
    turn_until_joined(&world, 1);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "ready");
    cr_assert(eq(u32, stub.n_cancels, 1));
    cr_assert(eq(u32, stub.n_joins, 1));
    close_world(&world);
}

Test(driver_gradio, a_running_function_is_waited_for_unless_it_yields)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio");
    draw(&world, 2, 7);
    turn_until_joined(&world, 1);
    say(&world, STARTS);
    turn_until(&world, "taken", 3000);
    turn_for(&world, 600); /* no steps, and yet not stuck */
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 300);
    cr_assert(zero(u32, stub.n_cancels));
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    say(&world, COMPLETED);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken ready");
    stub.generator = true;
    stub.app_id = "2"; /* another life: it is learned anew */
    turn_for(&world, 2500);
    draw(&world, 1, 7);
    turn_until_joined(&world, 2);
    say(&world, STARTS PROGRESS(1));
    turn_until(&world, "1/8", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(u32, stub.n_cancels, 1));
    close_world(&world);
}

Test(driver_gradio, an_app_that_has_told_a_step_owes_the_next_one)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio"); /* nobody knows yet whether it tells steps */
    draw(&world, 1, 7);
    turn_until_joined(&world, 1);
    say(&world, STARTS PROGRESS(1));
    turn_until(&world, "failed", 5000);
    expect_heard(&world, "taken 1/8 failed");
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    close_world(&world);
}

Test(driver_gradio, a_job_behind_those_of_others_is_silent_without_fault_until_it_begins)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio"); /* 400 ms without a step is silence */
    draw(&world, 1, 7);
    turn_until_joined(&world, 1);
    say(&world, STARTS PROGRESS(3) COMPLETED); /* it tells steps */
    turn_until(&world, "ready", 3000);
    turn_for(&world, 300); /* a health check */
    draw(&world, 1, 8);
    turn_until_joined(&world, 2);
    say(&world, EVENT("{\"msg\":\"estimation\",\"rank\":1}"));
    turn_for(&world, 1500);
    expect_heard(&world, "");
    say(&world, STARTS PROGRESS(1));
    turn_until(&world, "failed", 5000);
    expect_heard(&world, "taken 1/8 failed");
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    close_world(&world);
}

Test(driver_gradio, an_interrupt_during_the_join_is_obeyed_after_it)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio");
    draw(&world, 1, 7);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "ready");
    close_world(&world);
}

Test(driver_gradio, killed_while_it_draws)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio");
    draw(&world, 1, 7);
    turn_until_joined(&world, 1);
    say(&world, STARTS);
    turn_until(&world, "taken", 3000);
    kill_and_come_back(&world);
    close_world(&world);
}

Test(driver_gradio, errors_and_garbage)
{
    struct world world;
    struct stub stub = { .silent = true };
    open_gradio(&world, &stub, "driver=gradio");
    draw(&world, 1, 7);
    turn_until_joined(&world, 1);
    say(&world,
        STARTS EVENT("{\"msg\":\"process_completed\",\"success\":false,\"output\":{\"error\":"
                     "\"CUDA error\"}}"));
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    cr_assert(eq(str, world.message, (char *)"the app failed: CUDA error"));
    draw(&world, 1, 7);
    turn_until_joined(&world, 2);
    say(&world, STARTS EVENT("what?"));
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    stub.join_status = 503;
    draw(&world, 1, 7);
    turn_until(&world, "ready", 4000);
    expect_heard(&world, "failed down ready");
    stub.join_status = 200;
    draw(&world, 1, 7);
    turn_until_joined(&world, 4);
    say(&world, STARTS);
    turn_until(&world, "taken", 3000);
    http_stream_end(release(&world));
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_DIED, true, false);
    turn_until(&world, "ready", 4000);
    world.guidance = 3;
    draw(&world, 1, 7);
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_REFUSED, false, false);
    close_world(&world);
}

Test(driver_gradio, one_of_several_functions_is_named_by_the_user)
{
    struct world world;
    struct stub stub = { .functions = "\"/other\":{\"parameters\":[" INPUTS
                                      "],\"returns\":[{\"component\":\"Image\"}]}," };
    open_gradio(&world, &stub, "driver=gradio endpoint=draw");
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken drawn ready");
    stub.inputs = PARAMETER("prompt", "Prompt", "\"\"");
    stub.app_id = "2"; /* another app, which cannot draw what is asked for */
    turn_until(&world, "down", 8000);
    close_world(&world);
}
