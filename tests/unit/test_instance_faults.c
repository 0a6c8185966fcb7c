/* What is done about an instance that fails: taken out, on probation, left alone. Against a server
 * in this process that draws or fails as a test says. */
#include "tests/unit/driver_world.h"
#include "worker/device_error.h"

struct stub {
    const char *error; /* its jobs fail with this message; NULL: they are drawn */
    uint32_t n_jobs;   /* taken so far */
    char last[64];     /* id of the last one */
    char body[1024];   /* as it was sent */
};

static void
on_request(struct world *world, struct http_exchange *exchange, const char *path)
{
    struct stub *stub = world->stub;
    char text[512];
    if (strcmp(path, "/healthz") == 0) {
        answer(exchange, 200, "{\"ready\":true,\"model\":\"m\",\"epoch\":\"e\"}");
        return;
    }
    if (http_method(exchange) == HTTP_POST) {
        json_t *body = body_of(exchange);
        snprintf(stub->last, sizeof stub->last, "%s",
                 json_string_value(json_object_get(body, "id")));
        json_dumpb(body, stub->body, sizeof stub->body - 1, JSON_COMPACT);
        json_decref(body);
        stub->n_jobs++;
        answer(exchange, 202, "{\"id\":\"x\",\"state\":\"queued\",\"epoch\":\"e\"}");
    } else if (http_method(exchange) == HTTP_DELETE) {
        answer(exchange, 200, "{}");
    } else if (strstr(path, "/images/") != NULL) {
        http_respond(exchange, 200, "image/png", "picture", 7);
    } else if (stub->error != NULL) {
        snprintf(text, sizeof text,
                 "{\"id\":\"%s\",\"epoch\":\"e\",\"state\":\"failed\",\"step\":1,\"steps\":8,"
                 "\"error\":{\"code\":\"generation_failed\",\"message\":\"%s\"}}",
                 stub->last, stub->error);
        answer(exchange, 200, text);
    } else {
        snprintf(text, sizeof text,
                 "{\"id\":\"%s\",\"epoch\":\"e\",\"state\":\"succeeded\",\"step\":8,\"steps\":8,"
                 "\"images\":[{\"seed\":1}]}",
                 stub->last);
        answer(exchange, 200, text);
    }
}

static void
open_stub(struct world *world, struct stub *stub)
{
    *stub = (struct stub){ 0 };
    *world = (struct world){ .stub = stub, .on_request = on_request };
    open_world(world, "driver=drawbar", 60000);
}

static void
draw_until(struct world *world, const char *state)
{
    draw(world, 1, 1);
    turn_until(world, state, 5000);
}

static void
judge(struct world *world, enum judgement_kind kind)
{
    struct judgement judgement = { .kind = kind, .message = "asked 128x64, got 64x32" };
    instance_judge(world->supervisor, 0, &judgement);
}

/* Until it is ready again, from its end on. */
static int64_t
time_out_ms(struct world *world)
{
    int64_t down_ms = clock_mono_ms();
    cr_assert(eq(int, instance_state(world->supervisor, 0), INSTANCE_DOWN), "%s", world->heard);
    turn_until(world, "ready", 10000);
    return clock_mono_ms() - down_ms;
}

TestSuite(instance_faults, .timeout = 40);

Test(instance_faults, two_failures_and_a_picture_are_no_row)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    for (int round = 0; round < 2; round++) {
        stub.error = "no luck";
        for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
            draw_until(&world, "ready");
        }
        stub.error = NULL;
        draw_until(&world, "ready");
        judge(&world, JUDGED_GOOD);
    }
    turn_for(&world, 1200);
    cr_assert(strstr(world.heard, "down") == NULL, "%s", world.heard);
    close_world(&world);
}

Test(instance_faults, one_that_is_taken_out_says_why_and_one_failure_more_takes_it_out_for_longer)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.error = "no \\\"luck\\\"";
    for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
        draw_until(&world, "ready");
    }
    draw_until(&world, "down");
    expect_reason(&world, "taken out: 3 failures in a row, last: generation_failed: no ?luck?");
    struct draw_request request = { .id = "J.9" };
    cr_assert(eq(int, instance_draw(world.supervisor, 0, &request), -EBUSY));
    cr_assert(ge(i64, time_out_ms(&world), LIMIT_RESTART_MIN_MS));
    expect_reason(&world, "");
    for (int i = 1; i <= 2; i++) {
        draw_until(&world, "down");
        expect_reason(&world, "taken out: failed again, last: generation_failed: no ?luck?");
        cr_assert(ge(i64, time_out_ms(&world), LIMIT_RESTART_MIN_MS << i));
    }
    cr_assert(eq(u32, stub.n_jobs, LIMIT_ERROR_STREAK + 2));
    close_world(&world);
}

Test(instance_faults, a_good_picture_ends_the_probation_and_the_next_pause_is_the_least_again)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.error = "no luck";
    for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
        draw_until(&world, "ready");
    }
    draw_until(&world, "down");
    time_out_ms(&world);
    draw_until(&world, "down");
    time_out_ms(&world);
    draw_until(&world, "down");
    cr_assert(ge(i64, time_out_ms(&world), 4 * LIMIT_RESTART_MIN_MS));
    stub.error = NULL;
    draw_until(&world, "ready");
    judge(&world, JUDGED_GOOD);
    stub.error = "no luck";
    for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
        draw_until(&world, "ready");
    }
    draw_until(&world, "down");
    cr_assert(lt(i64, time_out_ms(&world), 4 * LIMIT_RESTART_MIN_MS));
    close_world(&world);
}

/* It draws each time, so its jobs do not fail before their pictures are looked at. */
Test(instance_faults, one_that_draws_nothing_but_garbage_is_out_for_longer_each_time)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    for (int i = 1; i < LIMIT_ERROR_STREAK; i++) {
        draw_until(&world, "ready");
        judge(&world, JUDGED_BAD);
    }
    for (int i = 0; i < 3; i++) {
        draw_until(&world, "ready");
        judge(&world, JUDGED_BAD);
        struct draw_request request = { .id = "J.9" };
        cr_assert(eq(int, instance_draw(world.supervisor, 0, &request), -EBUSY), "not even now");
        turn_until(&world, "down", 3000);
        expect_reason(&world, i == 0
                                  ? "taken out: 3 failures in a row, last: asked 128x64, got 64x32"
                                  : "taken out: failed again, last: asked 128x64, got 64x32");
        cr_assert(ge(i64, time_out_ms(&world), LIMIT_RESTART_MIN_MS << i));
    }
    close_world(&world);
}

Test(instance_faults, a_lost_device_leaves_an_attached_one_alone_and_says_so)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.error = "CUDA error: an illegal memory access was encountered";
    draw_until(&world, "down");
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    expect_reason(&world, "lost its device: generation_failed: "
                          "CUDA error: an illegal memory access was encountered");
    cr_assert(ge(i64, time_out_ms(&world), LIMIT_RESTART_MIN_MS));
    draw_until(&world, "down");
    cr_assert(ge(i64, time_out_ms(&world), 2 * LIMIT_RESTART_MIN_MS));
    close_world(&world);
}

Test(instance_faults, too_little_memory_is_a_failure_as_any_other)
{
    struct world world;
    struct stub stub;
    open_stub(&world, &stub);
    stub.error = "CUDA error: out of memory";
    draw_until(&world, "ready");
    expect_failure(&world, FAIL_INSTANCE_ERROR, true, false);
    close_world(&world);
}

Test(device_error, tells_a_lost_device_from_other_failures)
{
    static const char *const lost[] = {
        "generation_failed: CUDA error: device-side assert triggered",
        "cuda ERROR: unspecified launch failure",
        "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx",
        "HIP error: an illegal memory access was encountered",
        "vk::Queue::submit: ErrorDeviceLost",
        "VK_ERROR_DEVICE_LOST",
        "the device lost",
        "device lost",
    };
    static const char *const others[] = {
        "",
        "CUDA",
        "CUDA erro",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "out_of_memory: CUDA error: no memory for this size",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "generation_failed: a simulated failure",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(lost); i++) {
        cr_assert(device_error_is(lost[i]), "%s", lost[i]);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        cr_assert(not(device_error_is(others[i])), "%s", others[i]);
    }
}

Test(device_error, looks_at_so_much_and_no_more)
{
    char text[DEVICE_ERROR_LOOK + 32];
    memset(text, 'x', sizeof text);
    snprintf(text + DEVICE_ERROR_LOOK - strlen("HIP error"), 16, "HIP error");
    cr_assert(device_error_is(text));
    memset(text, 'x', sizeof text);
    snprintf(text + DEVICE_ERROR_LOOK - strlen("HIP error") + 1, 16, "HIP error");
    cr_assert(not(device_error_is(text)));
}
