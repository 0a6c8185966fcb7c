/* The driver `comfyui`, the workflows it fills, and how it follows one. */
#include "tests/unit/driver_world.h"
#include "tests/unit/websocket_world.h"
#include "worker/drivers/comfyui_progress.h"
#include "worker/drivers/driver.h"
#include <unistd.h>

static const char good[] =
    "{\"1\":{\"class_type\":\"UNETLoader\",\"inputs\":{\"unet_name\":\"z.safetensors\"}},"
    "\"2\":{\"inputs\":{\"text\":\"{prompt}\",\"list\":[\"{negative_prompt}\"]}},"
    "\"3\":{\"class_type\":\"KSampler\",\"inputs\":{\"seed\":\"{seed}\",\"steps\":\"{steps}\","
    "\"cfg\":\"{guidance}\",\"latent_image\":[\"4\",0]}},"
    "\"4\":{\"inputs\":{\"width\":\"{width}\",\"height\":\"{height}\",\"n\":\"a {seed}\"}},"
    "\"9\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"3\",0]}}}";

enum place { ABSENT, PENDING, RUNNING, ENDED };

struct stub {
    int submit_status;
    const char *submit_body;
    enum place place; /* of job p-1 */
    bool moves;       /* one place on with each look at the history */
    const char *entry;
    uint32_t n_submits, n_interrupts, n_deletes;
    bool drops;          /* the connection of a submit, taken in and not answered */
    bool looked;         /* at the queue, since the last submit */
    uint32_t lost_files; /* that the next looks at pictures do not find */
    char asked[2048];    /* the last graph */
    char client[64];
    char view[256];
    char file[64];
    struct door door;
};

#define SUCCESS                                                                                    \
    "{\"p-1\":{\"outputs\":{\"8\":{\"images\":[{\"filename\":\"preview.png\",\"subfolder\":\"\","  \
    "\"type\":\"temp\"}]},\"9\":{\"images\":[{\"filename\":\"a b.png\",\"subfolder\":\"\","        \
    "\"type\":\"output\"}]}},\"status\":{\"status_str\":\"success\",\"completed\":true}}}"

static void
on_prompt(struct stub *stub, struct http_exchange *exchange)
{
    json_t *body = body_of(exchange);
    char *dump = json_dumps(json_object_get(body, "prompt"), JSON_SORT_KEYS | JSON_COMPACT);
    snprintf(stub->asked, sizeof stub->asked, "%s", dump);
    snprintf(stub->client, sizeof stub->client, "%s",
             json_string_value(json_object_get(body, "client_id")));
    free(dump);
    json_decref(body);
    stub->n_submits++;
    stub->looked = false;
    stub->place = PENDING;
    if (stub->drops) {
        for (uint32_t i = 0; i < stub->door.n_pairs; i++) {
            if (stub->door.pairs[i].forwards && stub->door.pairs[i].client != NULL) {
                door_drop_pair(&stub->door.pairs[i]);
            }
        }
        return;
    }
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
on_queue(struct world *world, struct stub *stub, struct http_exchange *exchange)
{
    char text[512];
    snprintf(text, sizeof text, "{\"queue_running\":[%s],\"queue_pending\":[%s%s%s]}",
             stub->place == RUNNING ? "[3,\"p-1\",{}]" : "[1,\"p-0\",{}]",
             stub->place == PENDING ? "[3,\"p-1\",{},{\"client_id\":\"" : "",
             stub->place == PENDING ? stub->client : "", stub->place == PENDING ? "\"}]" : "");
    answer(exchange, 200, text);
    if (!stub->looked && stub->place == PENDING) {
        stub->looked = true;
        hear(world, "waits");
    }
}

static void
on_view(struct stub *stub, struct http_exchange *exchange)
{
    snprintf(stub->view, sizeof stub->view, "%s", http_query(exchange));
    if (stub->lost_files > 0) {
        stub->lost_files--;
        http_respond(exchange, 404, "text/plain", "", 0);
    } else {
        http_respond(exchange, 200, "image/png", "pic", 3);
    }
}

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
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
        on_queue(world, stub, exchange);
    } else if (strcmp(path, "/view") == 0) {
        on_view(stub, exchange);
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

static uint16_t
make_door(struct world *world)
{
    struct stub *stub = world->stub;
    door_open(&stub->door, world->reactor, http_server_port(world->server));
    return stub->door.port;
}

static void
open_with(struct world *world, struct stub *stub, int64_t stuck_ms, bool door)
{
    char words[128];
    *world =
        (struct world){ .stub = stub, .on_request = on_request, .door = door ? make_door : NULL };
    stub->submit_status = 200;
    stub->submit_body = "{\"prompt_id\":\"p-1\",\"number\":3,\"node_errors\":{}}";
    stub->entry = SUCCESS;
    write_file(stub->file, good);
    snprintf(words, sizeof words, "driver=comfyui workflow=%s", stub->file);
    open_world(world, words, stuck_ms);
    unlink(stub->file);
}

/* Without a WebSocket. */
static void
open_comfyui(struct world *world, struct stub *stub)
{
    open_with(world, stub, 60000, false);
}

static void
close_comfyui(struct world *world, struct stub *stub)
{
    if (world->door != NULL) {
        door_close(&stub->door);
    }
    close_world(world);
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
    expect_heard(&world, "waits taken waits drawn ready");
    expect_picture(&world, 0, "pic", 7);
    expect_picture(&world, 1, "pic", 8);
    cr_assert(eq(str, stub.asked,
                 (char *)"{\"1\":{\"class_type\":\"UNETLoader\",\"inputs\":{"
                         "\"unet_name\":\"z.safetensors\"}},\"2\":{\"inputs\":{\"list\":[\"\"],"
                         "\"text\":\"a \\\"red\\\" fox\"}},\"3\":{\"class_type\":\"KSampler\","
                         "\"inputs\":{\"cfg\":1.0,\"latent_image\":[\"4\",0],\"seed\":8,"
                         "\"steps\":8}},\"4\":{\"inputs\":{\"height\":64,\"n\":\"a {seed}\","
                         "\"width\":128}},\"9\":{\"class_type\":\"SaveImage\",\"inputs\":{"
                         "\"images\":[\"3\",0]}}}"));
    cr_assert(eq(str, stub.view, (char *)"filename=a%20b.png&subfolder=&type=output"));
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, a_waiting_job_is_deleted_and_a_running_one_interrupted_by_its_id)
{
    struct world world;
    struct stub stub = { 0 };
    open_comfyui(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "waits", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "waits ready");
    cr_assert(eq(u32, stub.n_deletes, 1));
    cr_assert(zero(u32, stub.n_interrupts), "it would stop somebody else's");
    draw(&world, 1, 7);
    turn_until(&world, "waits", 3000);
    stub.place = RUNNING;
    turn_until(&world, "taken", 3000);
    instance_interrupt(world.supervisor, 0, 0);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(u32, stub.n_interrupts, 1));
    cr_assert(eq(u32, stub.n_deletes, 1));
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, killed_while_it_draws_and_a_restart_nobody_saw)
{
    struct world world;
    struct stub stub = { 0 };
    open_comfyui(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "waits", 3000);
    stub.place = RUNNING;
    turn_until(&world, "taken", 3000);
    kill_and_come_back(&world);
    draw(&world, 1, 7);
    turn_until(&world, "waits", 3000);
    stub.place = RUNNING;
    turn_until(&world, "taken", 3000);
    stub.place = ABSENT;
    turn_until(&world, "failed", 5000);
    expect_failure(&world, FAIL_INSTANCE_DIED, true, false);
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, errors_and_garbage)
{
    struct world world;
    struct stub stub = { .moves = true };
    open_comfyui(&world, &stub);
    stub.submit_status = 400;
    stub.submit_body =
        "{\"error\":{\"message\":\"Prompt outputs failed validation\",\"details\":\"x\"},"
        "\"node_errors\":{\"1\":{\"errors\":[{\"type\":\"value_not_in_list\",\"message\":"
        "\"Value not in list\",\"details\":\"unet_name: 'z' not in ['y']\\n\"}],"
        "\"class_type\":\"UNETLoader\"}}}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, false, false);
    cr_assert(eq(str, world.message,
                 (char *)"HTTP 400: node 1 (UNETLoader): Value not in list: "
                         "unet_name: 'z' not in ['y']"));
    stub.submit_status = 200;
    stub.submit_body = "{\"prompt_id\":\"p-1\"}";
    stub.entry =
        "{\"p-1\":{\"status\":{\"status_str\":\"error\",\"messages\":[[\"execution_start\","
        "{}],[\"execution_error\",{\"node_type\":\"KSampler\",\"exception_message\":"
        "\"CUDA error: out of memory\\n\"}]]}}}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 5000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    cr_assert(eq(str, world.message,
                 (char *)"the workflow failed in KSampler: CUDA error: out of memory"));
    stub.entry = "[]";
    draw(&world, 1, 7);
    turn_until(&world, "failed", 5000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, a_workflow_that_is_refused_as_a_whole_says_why)
{
    struct world world;
    struct stub stub = { .moves = true };
    open_comfyui(&world, &stub);
    stub.submit_status = 400;
    stub.submit_body = "{\"error\":{\"type\":\"missing_node_type\",\"message\":\"Node 'Fox' not "
                       "found.\",\"details\":\"Node ID '#3'\"},\"node_errors\":{}}";
    draw(&world, 1, 7);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(str, world.message, (char *)"HTTP 400: Node 'Fox' not found.: Node ID '#3'"));
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, a_cached_picture_whose_file_is_gone_is_saved_anew_once)
{
    struct world world;
    struct stub stub = { .moves = true, .lost_files = 1 };
    open_comfyui(&world, &stub);
    draw(&world, 1, 7);
    turn_until(&world, "ready", 5000);
    expect_picture(&world, 0, "pic", 7);
    cr_assert(eq(u32, stub.n_submits, 2));
    const char *saver = strstr(stub.asked, "\"9\":{\"class_type\":\"SaveImage\",\"inputs\":{");
    cr_assert(saver != NULL && strstr(saver, "\"drawbar_again\":\"") != NULL, "%s", stub.asked);
    cr_assert(zero(ptr, strstr(strstr(saver, "drawbar_again") + 1, "drawbar_again")));
    stub.lost_files = UINT32_MAX;
    draw(&world, 1, 7);
    turn_until(&world, "failed", 5000);
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    cr_assert(eq(u32, stub.n_submits, 4), "no more than once");
    close_comfyui(&world, &stub);
}

/* -- with a WebSocket -- */

static void
tell(struct stub *stub, const char *type, const char *format, ...)
{
    char data[512];
    char text[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(data, sizeof data, format, arguments);
    va_end(arguments);
    snprintf(text, sizeof text, "{\"type\":\"%s\",\"data\":{\"prompt_id\":\"p-1\"%s%s}}", type,
             data[0] == '\0' ? "" : ",", data);
    door_text(&stub->door, text);
}

static void
tell_step(struct stub *stub, uint32_t step)
{
    static const char preview[5000];
    tell(stub, "progress", "\"value\":%u,\"max\":8,\"node\":\"3\"", step);
    tell(stub, "progress_state", "\"nodes\":{\"3\":{\"value\":%u,\"max\":8,\"state\":\"running\"}}",
         step);
    door_frame(&stub->door, 0x82, preview, sizeof preview);
}

/* Submits a job and begins it. */
static void
begin_to_draw(struct world *world, struct stub *stub, uint8_t n)
{
    draw(world, n, 7);
    turn_until(world, "waits", 3000);
    stub->place = RUNNING;
    tell(stub, "execution_start", "");
    turn_until(world, "taken", 3000);
}

static void
end_drawing(struct stub *stub)
{
    stub->place = ENDED;
    tell(stub, "execution_success", "");
    tell(stub, "executing", "\"node\":null");
}

Test(driver_comfyui, steps_are_told_and_the_end_is_seen_at_once)
{
    struct world world;
    struct stub stub = { 0 };
    open_with(&world, &stub, 60000, true);
    cr_assert(eq(u32, stub.door.n_sockets, 1));
    begin_to_draw(&world, &stub, 1);
    cr_assert(strstr(stub.door.asked, stub.client) != NULL, "news come to who sent the prompt");
    for (uint32_t step = 1; step <= 8; step++) {
        tell_step(&stub, step);
    }
    turn_until(&world, "8/8", 3000);
    int64_t before_ms = clock_mono_ms();
    end_drawing(&stub);
    turn_until(&world, "ready", 3000);
    cr_assert(lt(i64, clock_mono_ms() - before_ms, 900), "no waiting for the next look");
    expect_heard(&world, "waits taken 1/8 2/8 3/8 4/8 5/8 6/8 7/8 8/8 drawn ready");
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, steps_of_two_pictures_are_steps_of_the_whole)
{
    struct world world;
    struct stub stub = { 0 };
    open_with(&world, &stub, 60000, true);
    begin_to_draw(&world, &stub, 2);
    for (uint32_t step = 1; step <= 8; step++) {
        tell_step(&stub, step);
    }
    turn_until(&world, "4/8", 3000);
    end_drawing(&stub);
    turn_until(&world, "waits", 3000);
    stub.place = RUNNING;
    for (uint32_t step = 1; step <= 8; step++) {
        tell_step(&stub, step);
    }
    turn_until(&world, "8/8", 3000);
    end_drawing(&stub);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "waits taken 1/8 2/8 3/8 4/8 waits 5/8 6/8 7/8 8/8 drawn ready");
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, no_step_for_long_is_a_hang_and_a_sign_of_life_is_none)
{
    struct world world;
    struct stub stub = { 0 };
    open_with(&world, &stub, 400, true); /* 800 ms for the first job */
    begin_to_draw(&world, &stub, 1);
    for (uint32_t i = 0; i < 5; i++) { /* a VAE in tiles: no steps, but work */
        tell(&stub, "progress", "\"value\":%u,\"max\":99,\"node\":\"5\"", i);
        turn_for(&world, 300);
    }
    expect_heard(&world, "waits taken");
    for (uint32_t i = 0; i < 5 && world.code != FAIL_INSTANCE_STUCK; i++) {
        tell(&stub, "progress", "\"value\":4,\"max\":99,\"node\":\"5\""); /* again and again */
        turn_for(&world, 300);
    }
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    turn_until(&world, "ready", 3000);
    cr_assert(eq(u32, stub.n_interrupts, 1));
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, waiting_behind_somebody_elses_job_is_no_hang)
{
    struct world world;
    struct stub stub = { 0 };
    open_with(&world, &stub, 300, true); /* 600 ms for the first job */
    draw(&world, 1, 7);
    turn_for(&world, 1500);
    expect_heard(&world, "waits");
    stub.place = RUNNING;
    tell(&stub, "execution_start", "");
    turn_until(&world, "taken", 3000);
    turn_until(&world, "failed", 3000); /* and now it is */
    expect_failure(&world, FAIL_INSTANCE_STUCK, true, false);
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, a_lost_socket_is_opened_again_and_steps_go_on)
{
    struct world world;
    struct stub stub = { 0 };
    open_with(&world, &stub, 60000, true);
    begin_to_draw(&world, &stub, 1);
    tell_step(&stub, 2);
    turn_until(&world, "2/8", 3000);
    door_drop(&stub.door);
    while (stub.door.n_sockets < 2) {
        turn_for(&world, 50);
    }
    tell_step(&stub, 5);
    turn_until(&world, "5/8", 3000);
    end_drawing(&stub);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "waits taken 2/8 5/8 drawn ready");
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, a_socket_that_cannot_be_had_again_makes_no_hang)
{
    struct world world;
    struct stub stub = { 0 };
    open_with(&world, &stub, 700, true); /* 1400 ms for the first job */
    begin_to_draw(&world, &stub, 1);
    tell_step(&stub, 2);
    turn_until(&world, "2/8", 3000);
    stub.door.refusal = "HTTP/1.1 403 Forbidden\r\n\r\n";
    door_drop(&stub.door);
    turn_for(&world, 3000);
    expect_heard(&world, "waits taken 2/8");
    cr_assert(le(u32, stub.door.n_sockets, 5), "it is not tried without a pause");
    stub.place = ENDED;
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "waits taken 2/8 drawn ready");
    close_comfyui(&world, &stub);
}

Test(driver_comfyui, a_submit_whose_answer_was_lost_does_not_draw_for_nobody)
{
    struct world world;
    struct stub stub = { .drops = true };
    open_with(&world, &stub, 60000, true);
    draw(&world, 1, 7);
    turn_until(&world, "failed", 3000);
    expect_failure(&world, FAIL_INSTANCE_DIED, true, false);
    turn_until(&world, "down", 3000);
    cr_assert(eq(u32, stub.n_deletes, 1));
    turn_until(&world, "ready", 3000);
    stub.drops = false;
    begin_to_draw(&world, &stub, 1);
    end_drawing(&stub);
    turn_until(&world, "ready", 3000);
    expect_heard(&world, "waits taken drawn ready");
    close_comfyui(&world, &stub);
}

/* -- which bars are steps -- */

static struct comfyui_progress
progress_of(const char *workflow, uint32_t steps)
{
    struct comfyui_progress progress;
    json_t *graph = json_loads(workflow, 0, NULL);
    cr_assert(graph != NULL);
    comfyui_progress_begin(&progress, graph, steps);
    snprintf(progress.id, sizeof progress.id, "p");
    json_decref(graph);
    return progress;
}

/* The whole's percent after a bar was told. */
static int
percent_after(struct comfyui_progress *progress, const char *node, double value, double max)
{
    char text[256];
    snprintf(text, sizeof text,
             "{\"type\":\"progress\",\"data\":{\"prompt_id\":\"p\",\"node\":\"%s\","
             "\"value\":%g,\"max\":%g}}",
             node, value, max);
    comfyui_progress_hear(progress, text, strlen(text));
    return (int)(100 * progress->part + 0.5);
}

Test(driver_comfyui, a_second_sampler_and_an_upscaler_count_on)
{
    struct comfyui_progress p = progress_of(
        "{\"3\":{\"class_type\":\"KSampler\",\"inputs\":{\"steps\":\"{steps}\",\"latent_image\":1}}"
        ","
        "\"6\":{\"class_type\":\"KSampler\",\"inputs\":{\"steps\":6,\"latent_image\":1}},"
        "\"7\":{\"class_type\":\"ImageUpscaleWithModel\",\"inputs\":{\"upscale_model\":1}},"
        "\"8\":{\"class_type\":\"KSamplerSelect\",\"inputs\":{\"sampler_name\":\"euler\"}}}",
        8); /* weights 8 + 6 + 2 */
    cr_assert(eq(u32, p.n_bars, 3));
    cr_assert(eq(int, percent_after(&p, "3", 4, 8), 25));
    cr_assert(eq(int, percent_after(&p, "5", 9, 10), 25), "a loader's bar is no step");
    cr_assert(eq(int, percent_after(&p, "3", 8, 8), 50));
    cr_assert(eq(int, percent_after(&p, "3", 1, 8), 50), "never back");
    cr_assert(eq(int, percent_after(&p, "6", 3, 6), 69));
    cr_assert(eq(int, percent_after(&p, "6", 99, 6), 88), "over its end is its end");
    cr_assert(eq(int, percent_after(&p, "7", -1, 4), 88));
    cr_assert(eq(int, percent_after(&p, "7", 4, 4), 100));
}

Test(driver_comfyui,
     a_sampler_inside_of_a_node_that_unfolds_counts_once_it_tells_the_steps_asked_for)
{
    struct comfyui_progress p =
        progress_of("{\"3\":{\"class_type\":\"BasicScheduler\",\"inputs\":{\"steps\":\"{steps}\"}},"
                    "\"4\":{\"class_type\":\"Whole\",\"inputs\":{}}}",
                    8);
    cr_assert(eq(int, percent_after(&p, "4.0.0.1", 5, 10), 0), "of another length");
    cr_assert(eq(int, percent_after(&p, "4.0.0.2", 4, 8), 50));
    cr_assert(eq(int, percent_after(&p, "4.0.0.3", 6, 8), 50), "tiles, as many as steps");
    cr_assert(eq(int, percent_after(&p, "4.0.0.2", 8, 8), 100));
}

Test(driver_comfyui, what_is_cached_or_finished_is_drawn_and_others_prompts_are_not_ours)
{
    static const char workflow[] = "{\"3\":{\"inputs\":{\"steps\":\"{steps}\",\"latent_image\":1}},"
                                   "\"6\":{\"inputs\":{\"latent_image\":1}}}";
    static const struct {
        const char *text;
        enum comfyui_news news;
        int percent;
    } said[] = {
        { "{\"type\":\"execution_start\",\"data\":{\"prompt_id\":\"q\"}}", COMFYUI_NOTHING, 0 },
        { "{\"type\":\"execution_start\",\"data\":{\"prompt_id\":\"p\"}}", COMFYUI_BEGUN, 0 },
        { "{\"type\":\"execution_cached\",\"data\":{\"prompt_id\":\"p\",\"nodes\":[\"1\",\"3\",4]}"
          "}",
          COMFYUI_BEGUN, 50 },
        { "{\"type\":\"executing\",\"data\":{\"prompt_id\":\"p\",\"node\":\"6\"}}", COMFYUI_WORK,
          50 },
        { "{\"type\":\"executing\",\"data\":{\"prompt_id\":\"p\",\"node\":\"6\"}}", COMFYUI_NOTHING,
          50 },
        { "{\"type\":\"progress_state\",\"data\":{\"prompt_id\":\"p\",\"nodes\":{\"6.0.1\":{"
          "\"value\":1,"
          "\"max\":4,\"state\":\"running\",\"display_node_id\":\"6\"}}}}",
          COMFYUI_WORK, 63 },
        { "{\"type\":\"progress_state\",\"data\":{\"prompt_id\":\"p\",\"nodes\":{\"6\":{\"value\":"
          "1,"
          "\"max\":1,\"state\":\"finished\"}}}}",
          COMFYUI_WORK, 100 },
        { "{\"type\":\"status\",\"data\":{\"status\":{}}}", COMFYUI_NOTHING, 100 },
        { "{\"type\":\"executing\",\"data\":{\"prompt_id\":\"p\",\"node\":null}}", COMFYUI_OVER,
          100 },
        { "[", COMFYUI_NOTHING, 100 },
        { "{\"type\":7,\"data\":[\"p\"]}", COMFYUI_NOTHING, 100 },
        { "{\"type\":\"progress_state\",\"data\":{\"prompt_id\":\"p\",\"nodes\":7}}", COMFYUI_WORK,
          100 },
    };
    struct comfyui_progress p = progress_of(workflow, 8);
    for (size_t i = 0; i < ARRAY_LENGTH(said); i++) {
        enum comfyui_news news = comfyui_progress_hear(&p, said[i].text, strlen(said[i].text));
        cr_assert(eq(int, news, said[i].news), "%s", said[i].text);
        cr_assert(eq(int, (int)(100 * p.part + 0.5), said[i].percent), "%s", said[i].text);
    }
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
