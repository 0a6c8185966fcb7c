#include "common/scope.h"
#include "gateway/json_write.h"
#include "gateway/render.h"
#include "gateway/request.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <string.h>

static struct record_unpacker unpacker;
static struct buffer request_bytes, result_bytes;
static struct job_view view;

static void
set_up(void)
{
    CLEANUP(request_destroy) struct request request = { 0 };
    struct field_errors errors;
    const char *text = "{\"prompt\":\"a \\\"fox\\\"\\n\",\"seed\":5,\"metadata\":{\"k\":\"v\"}}";
    cr_assert(zero(int, record_unpacker_new(&unpacker)));
    cr_assert(eq(int, request_parse(&request, &errors, slice_of(text), 0), REQUEST_OK));
    request.envelope.tenant = slice_of("default");
    request_pack(&request_bytes, &request);
    view.entry.request = (struct slice){ request_bytes.bytes, (uint32_t)request_bytes.length };
    view.entry.eta_s = ETA_UNKNOWN;
    view.entry.header.submit_ms = 1000;
    view.entry.header.change_ms = 1000;
    view.entry.header.state = JOB_QUEUED;
}

static void
tear_down(void)
{
    record_unpacker_destroy(&unpacker);
    buffer_destroy(&request_bytes);
    buffer_destroy(&result_bytes);
}

TestSuite(render, .init = set_up, .fini = tear_down);

static void
result_set(const struct result *result)
{
    pack_struct(&result_bytes, &result_shape, result);
    view.entry.result = (struct slice){ result_bytes.bytes, (uint32_t)result_bytes.length };
}

/* The view rendered and read back by another parser; the caller's to free. */
static json_t *
rendered(void)
{
    CLEANUP(buffer_destroy) struct buffer out = { 0 };
    struct job_parts parts;
    json_error_t error;
    cr_assert(zero(int, job_view_unpack(&unpacker, &view, &parts)));
    render_job(&out, &view, &parts);
    json_t *json = json_loadb((const char *)out.bytes, out.length, JSON_REJECT_DUPLICATES, &error);
    cr_assert(ne(ptr, json, NULL), "%s: %.*s", error.text, (int)out.length, out.bytes);
    return json;
}

/* The value at a path of keys, "timings.run_ms", as compact JSON. */
static bool
holds(const json_t *json, const char *path, const char *expected)
{
    char keys[64];
    char *rest = NULL;
    (void)snprintf(keys, sizeof keys, "%s", path);
    for (char *key = strtok_r(keys, ".", &rest); key != NULL; key = strtok_r(NULL, ".", &rest)) {
        json = json_object_get(json, key);
    }
    char *text = json != NULL ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : strdup("absent");
    bool same = strcmp(text, expected) == 0;
    if (!same) {
        (void)fprintf(stderr, "%s is %s\n", path, text);
    }
    free(text);
    return same;
}

Test(render, a_queued_job_has_a_place_and_no_times)
{
    view.entry.position = 3;
    view.entry.eta_s = 12;
    view.entry.reason = WAIT_NO_WORKER;
    view.entry.worker = slice_of("mia"); /* of an attempt that is over */
    json_t *json = rendered();
    cr_expect(holds(json, "status", "\"queued\""));
    cr_expect(holds(json, "position", "3") && holds(json, "eta_s", "12"));
    cr_expect(holds(json, "reason", "\"no_worker\""));
    cr_expect(holds(json, "worker", "null") && holds(json, "attempt", "0"));
    cr_expect(holds(json, "progress", "{\"step\":0,\"steps\":8}"));
    cr_expect(holds(json, "timings", "{\"queued_ms\":null,\"run_ms\":null,\"total_ms\":null}"));
    cr_expect(holds(json, "created_at", "\"1970-01-01T00:00:01.000Z\""));
    cr_expect(holds(json, "expires_at", "null") && holds(json, "error", "null"));
    cr_expect(holds(json, "request.prompt", "\"a \\\"fox\\\"\\n\""));
    cr_expect(holds(json, "request.metadata", "{\"k\":\"v\"}"));
    cr_expect(holds(json, "request.guidance", "0.0") && holds(json, "seed", "5"));
    cr_expect(holds(json, "images", "[]") && holds(json, "warnings", "[]"));
    cr_expect(holds(json, "links.cancel", "\"/v1/jobs/00000000000000000000000000\""));
    json_decref(json);
}

Test(render, an_unknown_place_and_eta_are_null)
{
    json_t *json = rendered();
    cr_expect(holds(json, "position", "null") && holds(json, "eta_s", "null"));
    cr_expect(holds(json, "reason", "null"));
    json_decref(json);
}

Test(render, a_running_job_tells_its_step_and_its_worker)
{
    view.entry.header.state = JOB_RUNNING;
    view.entry.header.start_ms = 1500;
    view.entry.header.grant = 2;
    view.entry.header.progress = 3;
    view.entry.worker = slice_of("mia");
    json_t *json = rendered();
    cr_expect(holds(json, "progress", "{\"step\":3,\"steps\":8}"), "from the record");
    cr_expect(holds(json, "attempt", "2") && holds(json, "worker", "\"mia\""));
    cr_expect(holds(json, "timings.queued_ms", "500") && holds(json, "timings.run_ms", "null"));
    json_decref(json);
    view.entry.step = 5;
    view.entry.steps = 8;
    json = rendered();
    cr_expect(holds(json, "progress", "{\"step\":5,\"steps\":8}"), "from the broker");
    json_decref(json);
}

Test(render, a_succeeded_job_has_pictures_times_and_an_end_of_life)
{
    uint8_t sha256[32] = { 1 };
    struct result_image image = { .width = 64, .height = 80, .seed = 5, .bytes = 99 };
    image.sha256 = (struct slice){ sha256, sizeof sha256 };
    struct result result = { .worker = slice_of("mia"), .warnings = WARNING_UNIFORM_IMAGE };
    result.images = (struct list){ &image, 1 };
    result_set(&result);
    view.entry.header.state = JOB_SUCCEEDED;
    view.entry.header.start_ms = 1500;
    view.entry.header.change_ms = 4000;
    view.expires_ms = 86404000;
    json_t *json = rendered();
    cr_expect(holds(json, "images",
                    "[{\"url\":\"/v1/jobs/00000000000000000000000000/images/0\",\"width\":64,"
                    "\"height\":80,\"seed\":5,\"format\":\"png\",\"bytes\":99}]"));
    cr_expect(holds(json, "timings", "{\"queued_ms\":500,\"run_ms\":2500,\"total_ms\":3000}"));
    cr_expect(holds(json, "progress", "{\"step\":8,\"steps\":8}") &&
              holds(json, "worker", "\"mia\""));
    cr_expect(holds(json, "warnings", "[\"uniform_image\"]"));
    cr_expect(holds(json, "expires_at", "\"1970-01-02T00:00:04.000Z\""));
    json_decref(json);
}

Test(render, a_failed_job_tells_why_and_what_was_tried)
{
    struct result result = { .code = FAIL_TOO_MANY_ATTEMPTS,
                             .message = slice_of("gave \xc3\xa9 up") };
    result_set(&result);
    view.entry.header.state = JOB_FAILED;
    view.attempts[0] = slice_of("{\"attempt\":1,\"code\":\"instance_died\"}");
    view.attempts[1] = slice_of("{broken");
    view.attempts[2] = slice_of("[1]");
    view.n_attempts = 3;
    json_t *json = rendered();
    cr_expect(holds(json, "error.code", "\"too_many_attempts\""));
    cr_expect(holds(json, "error.message", "\"gave \xc3\xa9 up\""));
    cr_expect(holds(json, "error.attempts", "[{\"attempt\":1,\"code\":\"instance_died\"}]"),
              "what is no JSON object is left out");
    json_decref(json);
}

Test(render, a_job_that_ended_in_the_queue_never_ran)
{
    view.entry.header.state = JOB_EXPIRED;
    view.entry.header.start_ms = 1500; /* of an attempt before it was queued again */
    view.entry.header.change_ms = 4000;
    json_t *json = rendered();
    cr_expect(holds(json, "timings", "{\"queued_ms\":3000,\"run_ms\":null,\"total_ms\":3000}"));
    json_decref(json);
}

Test(render, a_broken_record_is_told)
{
    struct job_parts parts;
    view.entry.request.length--;
    cr_expect(ne(int, job_view_unpack(&unpacker, &view, &parts), 0));
    view.entry.request.length++;
    view.entry.result = slice_of("nonsense");
    cr_expect(ne(int, job_view_unpack(&unpacker, &view, &parts), 0));
}

static bool
writes(const struct buffer *out, const char *expected)
{
    return out->length == strlen(expected) && memcmp(out->bytes, expected, out->length) == 0;
}

Test(json_write, text_is_escaped_and_always_utf8)
{
    CLEANUP(buffer_destroy) struct buffer out = { 0 };
    put_open(&out, '[');
    put_word(&out, "a\"\\\n\t\x01\x7f\xc3\xa9");
    put_word(&out, "a\xff"
                   "b");
    put_text(&out, (struct slice){ "a\0b", 3 });
    put_close(&out, ']');
    cr_expect(writes(&out, "[\"a\\\"\\\\\\n\\t\\u0001\\u007f\xc3\xa9\",\"a?b\",\"a\\u0000b\"]"));
}

Test(json_write, numbers_read_back_the_same)
{
    CLEANUP(buffer_destroy) struct buffer out = { 0 };
    put_open(&out, '[');
    put_number(&out, 0);
    put_number(&out, 0.1);
    put_number(&out, 3.5);
    put_number(&out, 1.0 / 3);
    put_uint(&out, UINT64_MAX);
    put_close(&out, ']');
    cr_expect(writes(&out, "[0.0,0.1,3.5,0.3333333333333333,18446744073709551615]"));
}

Test(json_write, times_are_iso_8601)
{
    CLEANUP(buffer_destroy) struct buffer out = { 0 };
    put_time(&out, 1769860800123);
    cr_expect(writes(&out, "\"2026-01-31T12:00:00.123Z\""));
}
