#include "common/scope.h"
#include "proto/job.h"
#include <criterion/criterion.h>
#include <string.h>

static const struct job_header header = {
    .state = JOB_RUNNING,
    .class_ = CLASS_LOW,
    .grant = 16,
    .tries = 3,
    .epoch = 0xdeadbeef,
    .worker = 0x0123456789abcdef,
    .sequence = (1ULL << 45),
    .submit_ms = 1795432800000ULL,
    .start_ms = 1795432800001ULL,
    .change_ms = UINT64_MAX,
    .progress = 8,
    .revision = 4000000000U,
    .flags = JOB_FLAG_UNIFORM,
};

static struct envelope
envelope(void)
{
    return (struct envelope){ .key = 0x0102030405060708,
                              .deadline_ms = 42,
                              .tenant = slice_of("acme"),
                              .model = slice_of("z-image-turbo"),
                              .class_ = CLASS_NORMAL,
                              .width = 1024,
                              .height = 512,
                              .steps = 8,
                              .n = 2,
                              .expires_in_s = 60 };
}

static void
pack_request(struct buffer *out)
{
    struct envelope first = envelope();
    struct job_body body = { .prompt = slice_of("ein Bär"), .guidance = 1.5, .seed = UINT32_MAX };
    pack_struct(out, &envelope_shape, &first);
    pack_struct(out, &job_body_shape, &body);
}

Test(job, a_header_survives_its_64_bytes)
{
    uint8_t bytes[JOB_HEADER_BYTES];
    struct job_header again;
    uint8_t twice[JOB_HEADER_BYTES];
    job_header_encode(&header, bytes);
    cr_assert(job_header_decode(bytes, sizeof bytes, &again));
    job_header_encode(&again, twice);
    cr_assert_eq(memcmp(bytes, twice, sizeof bytes), 0);
    cr_assert_eq(again.worker, header.worker);
    cr_assert_eq(again.revision, header.revision);
    cr_assert_eq(again.change_ms, UINT64_MAX);
}

Test(job, the_fields_lie_where_the_protocol_says)
{
    uint8_t bytes[JOB_HEADER_BYTES];
    uint32_t revision;
    job_header_encode(&header, bytes);
    cr_assert_eq(bytes[0], 0xdb);
    cr_assert_eq(bytes[2], JOB_RUNNING);
    cr_assert_eq(bytes[8], 0xef, "little-endian");
    memcpy(&revision, bytes + 12, sizeof revision);
    cr_assert_eq(revision, header.revision, "functions.lua reads it there");
}

Test(job, a_header_with_any_bit_flipped_is_refused)
{
    uint8_t bytes[JOB_HEADER_BYTES];
    struct job_header out;
    job_header_encode(&header, bytes);
    for (uint32_t bit = 0; bit < JOB_HEADER_BYTES * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_not(job_header_decode(bytes, sizeof bytes, &out), "bit %u", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    cr_assert_not(job_header_decode(bytes, sizeof bytes - 1, &out), "one byte short");
    cr_assert(job_header_decode(bytes, sizeof bytes, &out));
}

Test(job, a_header_with_an_impossible_state_or_class_is_refused)
{
    uint8_t bytes[JOB_HEADER_BYTES];
    struct job_header out;
    struct job_header bad = header;
    bad.state = JOB_NONE;
    job_header_encode(&bad, bytes);
    cr_assert_not(job_header_decode(bytes, sizeof bytes, &out));
    bad.state = JOB_STATE_COUNT;
    job_header_encode(&bad, bytes);
    cr_assert_not(job_header_decode(bytes, sizeof bytes, &out));
    bad = header;
    bad.class_ = CLASS_COUNT;
    job_header_encode(&bad, bytes);
    cr_assert_not(job_header_decode(bytes, sizeof bytes, &out));
}

Test(job, crc32c_is_castagnolis)
{
    cr_assert_eq(crc32c("123456789", 9), 0xe3069283);
    cr_assert_eq(crc32c("", 0), 0);
}

Test(job, key_and_deadline_stand_where_the_broker_overwrites_them)
{
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    pack_request(&bytes);
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_eq(bytes.bytes[ENVELOPE_KEY_AT + i], i + 1);
    }
    cr_assert_eq(bytes.bytes[ENVELOPE_DEADLINE_AT + 7], 42);
}

Test(job, a_record_is_split_into_its_parts)
{
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    struct record_unpacker unpacker;
    struct job_record record;
    uint8_t head[JOB_HEADER_BYTES];
    struct result_image image = { .width = 1024, .sha256 = slice_of("0123456789abcdef") };
    struct result result = { .worker = slice_of("mia"), .images = { &image, 1 } };
    cr_assert_eq(record_unpacker_new(&unpacker), 0);
    job_header_encode(&header, head);
    buffer_add(&bytes, head, sizeof head);
    pack_request(&bytes);
    size_t live = bytes.length;
    cr_assert_eq(job_record_decode(&unpacker, bytes.bytes, live, &record), 0);
    cr_assert_not(record.has_result);
    cr_assert_eq(record.request.length, live - JOB_HEADER_BYTES);
    pack_struct(&bytes, &result_shape, &result);
    cr_assert_eq(job_record_decode(&unpacker, bytes.bytes, bytes.length, &record), 0);
    cr_assert(record.has_result);
    cr_assert(slice_is(record.body.prompt, "ein Bär"));
    cr_assert(slice_is(record.result.worker, "mia"));
    cr_assert_eq(record.result.images.count, 1);
    for (size_t cut = 0; cut < bytes.length; cut++) {
        int rc = job_record_decode(&unpacker, bytes.bytes, cut, &record);
        cr_assert_eq(rc == 0, cut == live, "cut at %zu", cut);
    }
    buffer_add(&bytes, "", 1);
    cr_assert_neq(job_record_decode(&unpacker, bytes.bytes, bytes.length, &record), 0);
    record_unpacker_destroy(&unpacker);
}

Test(job, a_request_with_bytes_behind_it_or_a_short_key_is_refused)
{
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    struct record_unpacker unpacker;
    struct envelope first;
    struct job_body body;
    cr_assert_eq(record_unpacker_new(&unpacker), 0);
    pack_request(&bytes);
    struct slice request = { bytes.bytes, (uint32_t)bytes.length };
    cr_assert_eq(job_request_decode(&unpacker, request, &first, &body), 0);
    cr_assert_eq(first.key, 0x0102030405060708);
    buffer_add(&bytes, "\0", 1);
    request = (struct slice){ bytes.bytes, (uint32_t)bytes.length };
    cr_assert_neq(job_request_decode(&unpacker, request, &first, &body), 0, "one byte more");
    /* the same envelope with its key as a fixint: nothing could be written in place */
    uint8_t small[256];
    small[0] = bytes.bytes[0];
    small[1] = 7;
    memcpy(small + 2, bytes.bytes + 10, bytes.length - 11);
    request = (struct slice){ small, (uint32_t)bytes.length - 9 };
    cr_assert_neq(job_request_decode(&unpacker, request, &first, &body), 0);
    record_unpacker_destroy(&unpacker);
}

Test(job, terminal_states_never_change)
{
    for (int state = JOB_SUCCEEDED; state < JOB_STATE_COUNT; state++) {
        cr_assert(job_is_terminal((enum job_state)state));
        for (int input = 0; input < JOB_INPUT_COUNT; input++) {
            cr_assert_eq(job_next((enum job_state)state, (enum job_input)input), JOB_NONE);
        }
    }
    cr_assert_eq(job_next(JOB_RUNNING, IN_EXPIRE), JOB_NONE, "a running job never expires");
    cr_assert_eq(job_next(JOB_RUNNING, IN_RELEASE), JOB_QUEUED);
    cr_assert_not(job_is_terminal(JOB_RUNNING));
    cr_assert_not(job_is_terminal(JOB_NONE));
}

Test(job, everything_has_a_name)
{
    for (int i = 0; i < JOB_STATE_COUNT; i++) {
        cr_assert_gt(strlen(job_state_name((enum job_state)i)), 0);
    }
    for (int i = 1; i < FAIL_CODE_COUNT; i++) {
        cr_assert_gt(strlen(fail_code_name((enum fail_code)i)), 0);
    }
    for (int i = 1; i < WAIT_REASON_COUNT; i++) {
        cr_assert_gt(strlen(wait_reason_name((enum wait_reason)i)), 0);
    }
    for (int i = 0; i < CLASS_COUNT; i++) {
        cr_assert_gt(strlen(job_class_name((enum job_class)i)), 0);
    }
}

Test(job, cost_is_pictures_steps_and_pixels)
{
    struct envelope one = envelope();
    cr_assert_eq(job_cost(&one), 2 * 8 * 1024 * 512 / 1024);
    one.n = one.steps = 1;
    one.width = one.height = 16;
    cr_assert_eq(job_cost(&one), 1, "never nothing");
}
