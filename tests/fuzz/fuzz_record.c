/* fuzz_record — any bytes into job_record_decode(), and behind a good header too: its CRC would
 * keep random bytes out of the envelope, the body and the result. */
#include "common/scope.h"
#include "proto/job.h"
#include "tests/fuzz/copy.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* What a decoded record says must lie inside the bytes it was decoded from. */
static void
check_inside(struct slice from, struct slice part)
{
    if (part.length == 0) {
        return;
    }
    const uint8_t *start = part.bytes;
    const uint8_t *first = from.bytes;
    assert(start >= first && start + part.length <= first + from.length);
}

static void
decode(struct record_unpacker *unpacker, struct slice from)
{
    struct job_record record;
    if (job_record_decode(unpacker, from.bytes, from.length, &record) != 0) {
        return;
    }
    check_inside(from, record.request);
    check_inside(from, record.result_bytes);
    check_inside(from, record.envelope.tenant);
    check_inside(from, record.body.prompt);
    assert(record.request.length + record.result_bytes.length + JOB_HEADER_BYTES == from.length);
    assert(job_cost(&record.envelope) >= 1);
    if (record.has_result) {
        check_inside(from, record.result.message);
        const struct result_image *images = record.result.images.items;
        for (uint32_t i = 0; i < record.result.images.count; i++) {
            check_inside(from, images[i].sha256);
        }
    }

    /* The request inside the record is what a SUBMIT carried. */
    struct envelope envelope;
    struct job_body body;
    CLEANUP(copy_free)
    uint8_t *request = copy_of(record.request.bytes, record.request.length, NULL, 0);
    struct slice copy = { request, record.request.length };
    assert(job_request_decode(unpacker, copy, &envelope, &body) == 0);

    CLEANUP(buffer_destroy) struct buffer packed = { 0 };
    pack_struct(&packed, &envelope_shape, &envelope);
    size_t envelope_bytes = packed.length;
    pack_struct(&packed, &job_body_shape, &body);
    copy = (struct slice){ packed.bytes, (uint32_t)packed.length };
    struct envelope envelope_again;
    struct job_body body_again;
    assert(job_request_decode(unpacker, copy, &envelope_again, &body_again) == 0);
    CLEANUP(buffer_destroy) struct buffer twice = { 0 };
    pack_struct(&twice, &envelope_shape, &envelope_again);
    assert(twice.length == envelope_bytes);
    pack_struct(&twice, &job_body_shape, &body_again);
    assert(twice.length == packed.length && memcmp(twice.bytes, packed.bytes, packed.length) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct record_unpacker unpacker;
    if (unpacker.envelope == NULL) {
        assert(record_unpacker_new(&unpacker) == 0);
    }

    CLEANUP(copy_free) uint8_t *as_is = copy_of(bytes, length, NULL, 0);
    decode(&unpacker, (struct slice){ as_is, (uint32_t)length });

    uint8_t good[JOB_HEADER_BYTES];
    struct job_header header = { .state = JOB_SUCCEEDED, .class_ = CLASS_NORMAL, .revision = 3 };
    job_header_encode(&header, good);
    CLEANUP(copy_free) uint8_t *behind = copy_of(good, sizeof(good), bytes, length);
    decode(&unpacker, (struct slice){ behind, (uint32_t)(sizeof(good) + length) });
    return 0;
}
