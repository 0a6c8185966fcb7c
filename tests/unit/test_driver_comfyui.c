/* The driver `comfyui` and the workflows it fills. */
#include "tests/unit/driver_world.h"
#include "worker/drivers/driver.h"
#include <unistd.h>

static const char good[] =
    "{\"1\":{\"class_type\":\"UNETLoader\",\"inputs\":{\"unet_name\":\"z.safetensors\"}},"
    "\"2\":{\"inputs\":{\"text\":\"{prompt}\",\"list\":[\"{negative_prompt}\"]}},"
    "\"3\":{\"inputs\":{\"seed\":\"{seed}\",\"steps\":\"{steps}\",\"cfg\":\"{guidance}\"}},"
    "\"4\":{\"inputs\":{\"width\":\"{width}\",\"height\":\"{height}\",\"n\":\"a {seed}\"}}}";

enum place { ABSENT, PENDING, RUNNING, ENDED };

struct stub {
    int submit_status;
    const char *submit_body;
    enum place place; /* of job p-1 */
    bool moves;       /* one place on with each look at the history */
    const char *entry;
    uint32_t n_submits, n_interrupts, n_deletes;
    char asked[2048];
    char view[256];
    char file[64];
};

#define SUCCESS                                                                                    \
    "{\"p-1\":{\"outputs\":{\"9\":{\"images\":[{\"filename\":\"a b.png\",\"subfolder\":\"\","      \
    "\"type\":\"output\"}]}},\"status\":{\"status_str\":\"success\",\"completed\":true}}}"

static void
on_prompt(struct stub *stub, struct http_exchange *exchange)
{
    json_t *body = body_of(exchange);
    char *dump = json_dumps(body, JSON_SORT_KEYS | JSON_COMPACT);
    snprintf(stub->asked, sizeof stub->asked, "%s", dump);
    free(dump);
    json_decref(body);
    stub->n_submits++;
    stub->place = PENDING;
    answer(exchange, stub->submit_status, stub->submit_body);
}

static void
on_stop(struct stub *stub, struct http_exchange *exchange, bool interrupt)
{
    json_t *body = body_of(exchange);
    const char *id =
        json_string_value(interrupt ? json_object_get(body, "prompt_id")
                                    : json_array_get(json_object_get(body, "delete"), 0));
    cr_assert(eq(str, (char *)id, (char *)"p-1"));
    json_decref(body);
    stub->n_interrupts += interrupt;
    stub->n_deletes += !interrupt;
    stub->place = ENDED;
    answer(exchange, 200, "");
}

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    char text[512];
    bool post = http_method(exchange) == HTTP_POST;
    if (strcmp(path, "/system_stats") == 0) {
        answer(exchange, 200, "{\"system\":{},\"devices\":[{\"name\":\"cuda:0\"}]}");
    } else if (strcmp(path, "/prompt") == 0) {
        on_prompt(stub, exchange);
    } else if (strcmp(path, "/history/p-1") == 0) {
        answer(exchange, 200, stub->place == ENDED ? stub->entry : "{}");
        stub->place += stub->moves && stub->place < ENDED;
    } else if (strcmp(path, "/interrupt") == 0 || (post && strcmp(path, "/queue") == 0)) {
        on_stop(stub, exchange, strcmp(path, "/interrupt") == 0);
    } else if (strcmp(path, "/queue") == 0) {
        snprintf(text, sizeof text, "{\"queue_running\":[%s],\"queue_pending\":[%s]}",
                 stub->place == RUNNING ? "[3,\"p-1\",{}]" : "[1,\"p-0\",{}]",
                 stub->place == PENDING ? "[3,\"p-1\",{}]" : "");
        answer(exchange, 200, text);
    } else if (strcmp(path, "/view") == 0) {
        snprintf(stub->view, sizeof stub->view, "%s", http_query(exchange));
        http_respond(exchange, 200, "image/png", "pic", 3);
    } else {
        answer(exchange, 404, "{}");
    }
}

static void
write_file(char *path, const char *text)
{
    snprintf(path, 64, "/tmp/drawbar-workflow-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(ge(int, fd, 0));
    cr_assert(eq(sz, (size_t)write(fd, text, strlen(text)), strlen(text)));
    close(fd);
}

static void
open_comfyui(struct world *world, struct stub *stub)
{
    char words[128];
    *world = (struct world){ .stub = stub, .on_request = on_request };
    stub->submit_status = 200;
    stub->submit_body = "{\"prompt_id\":\"p-1\",\"number\":3,\"node_errors\":{}}";
    stub->entry = SUCCESS;
    write_file(stub->file, good);
    snprintf(words, sizeof words, "driver=comfyui workflow=%s", stub->file);
    open_world(world, words, 60000);
    unlink(stub->file);
}

TestSuite(driver_comfyui, .timeout = 30);

Test(driver_comfyui, the_workflow_is_filled_and_its_picture_fetched)
{
    struct world world;
    struct stub stub = { .moves = true };
    open_comfyui(&world, &stub);
    cr_assert(eq(str, (char *)instance_model(world.supervisor, 0), (char *)"z.safetensors"));
    draw(&world, 2, 7);
    turn_until(&world, "ready", 5000);
    expect_heard(&world, "taken drawn ready");
    expect_picture(&world, 0, "pic", 7);
    expect_picture(&world, 1, "pic", 8);
    cr_assert(eq(str, stub.asked,
                 (char *)"{\"prompt\":{\"1\":{\"class_type\":\"UNETLoader\",\"inputs\":{"
                         "\"unet_name\":\"z.safetensors\"}},\"2\":{\"inputs\":{\"list\":[\"\"],"
                         "\"text\":\"a \\\"red\\\" fox\"}},\"3\":{\"inputs\":{\"cfg\":1.0,"
                         "\"seed\":8,\"steps\":8}},\"4\":{\"inputs\":{\"height\":64,"
                         "\"n\":\"a {seed}\",\"width\":128}}}}"));
    cr_assert(eq(str, stub.view, (char *)"filename=a%20b.png&subfolder=&type=output"));
    close_world(&world);
}

Test(driver_comfyui, a_waiting_job_is_deleted_and_a_running_one_interrupted_by_its_id)
{
    struct world world;
    struct stub stub = { 0 };
    open_comfyui(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "taken ready");
    cr_assert(eq(u32, stub.n_deletes, 1));
    cr_assert(zero(u32, stub.n_interrupts), "it would stop somebody else's");
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    stub.place = RUNNING;
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(u32, stub.n_interrupts, 1));
    cr_assert(eq(u32, stub.n_deletes, 1));
    close_world(&world);
}

Test(driver_comfyui, killed_while_it_draws_and_a_restart_nobody_saw)
{
    struct world world;
    struct stub stub = { 0 };
    open_comfyui(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    kill_and_come_back(&world);
    draw(&world, 1, 7);
    turn_until(&world, "taken", 3000);
    stub.place = ABSENT;
    turn_until(&world, "failed", 5000);
    expect_failure(&world, FAIL_INSTANCE_DIED, true, false);
    close_world(&world);
}

Test(driver_comfyui, errors_and_garbage)
{
    struct world world;
    struct stub stub = { .moves = true };
    open_comfyui(&world, &stub);
    stub.submit_status = 400;
    stub.submit_body = "{\"error\":{\"message\":\"Prompt outputs failed validation\"}}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, false, false);
    cr_assert(eq(str, world.message, (char *)"HTTP 400: Prompt outputs failed validation"));
    stub.submit_status = 200;
    stub.submit_body = "{\"prompt_id\":\"p-1\"}";
    stub.entry =
        "{\"p-1\":{\"status\":{\"status_str\":\"error\",\"messages\":[[\"execution_start\","
        "{}],[\"execution_error\",{\"exception_message\":\"out of memory\"}]]}}}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 5000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    cr_assert(eq(str, world.message, (char *)"the workflow failed: out of memory"));
    stub.entry = "[]";
    draw(&world, 1, 7);
    turn_until(&world, "failed", 5000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    close_world(&world);
}

Test(driver_comfyui, a_workflow_without_its_places_is_refused_at_the_start)
{
    char path[64];
    struct driver_words words = { .workflow = "/does/not/exist" };
    cr_assert(eq(str, (char *)driver_comfyui.check(&words),
                 (char *)"workflow=: the file cannot be read"));
    write_file(path, "{\"1\":{\"inputs\":{\"text\":\"{prompt}\"}}}");
    snprintf(words.workflow, sizeof words.workflow, "%s", path);
    cr_assert(eq(str, (char *)driver_comfyui.check(&words),
                 (char *)"workflow=: the file has no place \"{seed}\""));
    unlink(path);
    write_file(path, "{\"nodes\":[]}");
    snprintf(words.workflow, sizeof words.workflow, "%s", path);
    cr_assert(not(zero(ptr, strstr(driver_comfyui.check(&words), "API format"))));
    unlink(path);
    words.workflow[0] = '\0';
    cr_assert(not(zero(ptr, strstr(driver_comfyui.check(&words), "workflow= is missing"))));
}
