/* The driver `openai`: /v1/images/generations. */
#include "tests/unit/driver_world.h"

struct stub {
    int status;
    const char *body;
    bool waits;
    const char *models_at; /* path of the list of models; NULL: only /health */
    const char *model;     /* NULL: "z/image" */
    uint32_t n_draws;
    char asked[2048];
    char authorization[64];
};

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    const char *authorization = http_header(exchange, "Authorization");
    snprintf(stub->authorization, sizeof stub->authorization, "%s",
             authorization == NULL ? "" : authorization);
    if (stub->models_at != NULL && strcmp(path, stub->models_at) == 0) {
        char text[128];
        snprintf(text, sizeof text, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\"}]}",
                 stub->model != NULL ? stub->model : "z/image");
        answer(exchange, 200, text);
    } else if (stub->models_at == NULL && strcmp(path, "/health") == 0) {
        answer(exchange, 200, "");
    } else if (strcmp(path, "/v1/images/generations") == 0) {
        json_t *body = body_of(exchange);
        char *dump = json_dumps(body, JSON_SORT_KEYS);
        snprintf(stub->asked, sizeof stub->asked, "%s", dump);
        free(dump);
        json_decref(body);
        stub->n_draws++;
        if (stub->waits) {
            hold(world, exchange);
        } else {
            answer(exchange, stub->status, stub->body);
        }
    } else {
        answer(exchange, 404, "{\"detail\":\"Not Found\"}");
    }
}

static void
open_openai(struct world *world, struct stub *stub, const char *words)
{
    *world = (struct world){ .stub = stub, .on_request = on_request };
    stub->status = 200;
    stub->body = "{\"created\":1,\"data\":[{\"b64_json\":\"cGlj\"}]}";
    open_world(world, words, 60000);
}

TestSuite(driver_openai, .timeout = 30);

Test(driver_openai, pictures_are_drawn_one_by_one_with_their_seeds)
{
    struct world world;
    struct stub stub = { .models_at = "/v1/models" };
    open_openai(&world, &stub, "driver=openai key=secret extra_steps=1");
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"z/image"));
    cr_assert(eq(str, stub.authorization, (char *)"Bearer secret"));
    draw(&world, 2, 7);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken drawn ready");
    expect_picture(&world, 0, "pic", 7);
    expect_picture(&world, 1, "pic", 8);
    cr_assert(eq(str, stub.asked,
                 (char *)"{\"guidance_scale\": 0.0, \"model\": \"z/image\", \"n\": 1, "
                         "\"num_inference_steps\": 9, \"output_format\": \"png\", "
                         "\"prompt\": \"a \\\"red\\\" fox\", \"response_format\": \"b64_json\", "
                         "\"seed\": 8, \"size\": \"128x64\"}"));
    close_world(&world);
}

/* It has no other way to be told of seed and steps. */
Test(driver_openai, an_sd_server_is_told_in_the_prompt_what_the_api_has_no_word_for)
{
    struct world world;
    struct stub stub = { .models_at = "/v1/models", .model = "sd-cpp-local" };
    open_openai(&world, &stub, "driver=openai");
    world.negative = "blur";
    draw(&world, 1, UINT32_MAX);
    turn_until(&world, "ready", 3000);
    json_t *asked = json_loads(stub.asked, 0, NULL);
    cr_assert(eq(str, (char *)json_string_value(json_object_get(asked, "prompt")),
                 (char *)"<sd_cpp_extra_args>{\"seed\":4294967295,\"sample_params\":"
                         "{\"sample_steps\":8,\"guidance\":{\"txt_cfg\":1.0}},"
                         "\"negative_prompt\":\"blur\"}</sd_cpp_extra_args>a \"red\" fox"));
    json_decref(asked);
    close_world(&world);
}

Test(driver_openai, models_are_looked_for_where_servers_have_them)
{
    struct world world;
    struct stub stub = { .models_at = "/models" };
    open_openai(&world, &stub, "driver=openai");
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"z/image"));
    close_world(&world);
    struct stub bare = { 0 };
    open_openai(&world, &bare, "driver=openai model=mine");
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"mine"));
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    cr_assert(strstr(bare.asked, "\"model\"") == NULL, "our name for it is not its own");
    close_world(&world);
}

Test(driver_openai, an_interrupted_drawing_is_thrown_away_when_it_is_answered)
{
    struct world world;
    struct stub stub = { .models_at = "/v1/models", .waits = true };
    open_openai(&world, &stub, "driver=openai");
    draw(&world, 2, 7);
    turn_until(&world, "taken", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_for(&world, 300);
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_BUSY));
    cr_assert(world.held != NULL, "the connection is kept: the server would not notice");
    answer(release(&world), 200, stub.body);
    turn_until(&world, "ready", 1000);
    expect_heard(&world, "taken ready");
    cr_assert(eq(u32, stub.n_draws, 1));
    close_world(&world);
}

Test(driver_openai, killed_while_it_draws)
{
    struct world world;
    struct stub stub = { .models_at = "/v1/models", .waits = true };
    open_openai(&world, &stub, "driver=openai");
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    kill_and_come_back(&world);
    close_world(&world);
}

Test(driver_openai, errors_and_garbage)
{
    struct world world;
    struct stub stub = { .models_at = "/v1/models" };
    open_openai(&world, &stub, "driver=openai");
    stub.status = 400;
    stub.body = "{\"error\":{\"message\":\"size is bad\"}}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_REFUSED, false, true);
    cr_assert(eq(str, world.message, (char *)"HTTP 400: size is bad"));
    stub.status = 500;
    stub.body = "{\"error\":\"server_error\",\"message\":\"out of memory\"}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(str, world.message, (char *)"HTTP 500: out of memory"));
    close_world(&world);
    open_openai(&world, &stub, "driver=openai"); /* three errors in a row would take it out */
    stub.status = 500;
    stub.body = "";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    stub.status = 200;
    stub.body = "{\"data\":[{\"url\":\"http://elsewhere\"}]}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_BAD_PICTURE, true, false);
    stub.status = 503;
    draw(&world, 1, 7);
    turn_until(&world, "ready", 4000);
    expect_heard(&world, "failed down ready");
    expect_failure(&world, FAIL_INSTANCE_ERROR, false, false);
    close_world(&world);
}
