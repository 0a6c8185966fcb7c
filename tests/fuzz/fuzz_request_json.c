/* fuzz_request_json — any bytes into the gateway's reader of generation requests. What it accepts
 * packs into a SUBMIT that the broker can read, and obeys every limit; what it refuses has a
 * reason. */
#include "common/scope.h"
#include "gateway/request.h"
#include "tests/fuzz/copy.h"
#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void
check_limits(const struct envelope *envelope, const struct job_body *body)
{
    assert(envelope->width >= LIMIT_SIDE_MIN && envelope->width <= LIMIT_SIDE_MAX);
    assert(envelope->height >= LIMIT_SIDE_MIN && envelope->height <= LIMIT_SIDE_MAX);
    assert(envelope->width % LIMIT_SIDE_STEP == 0 && envelope->height % LIMIT_SIDE_STEP == 0);
    assert(envelope->steps >= 1 && envelope->steps <= LIMIT_STEPS);
    assert(envelope->n >= 1 && envelope->n <= LIMIT_IMAGES);
    assert(envelope->expires_in_s >= LIMIT_EXPIRES_MIN_S);
    assert(envelope->expires_in_s <= LIMIT_EXPIRES_MAX_S);
    assert(envelope->class_ < CLASS_COUNT && body->format < PICTURE_FORMAT_COUNT);
    assert(body->quality >= 1 && body->quality <= 100);
    size_t chars = 0;
    assert(utf8_valid(body->prompt.bytes, body->prompt.length, &chars));
    assert(chars >= 1 && chars <= LIMIT_PROMPT_CHARS);
    assert(model_name_valid(envelope->model.bytes, envelope->model.length));
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct record_unpacker unpacker;
    if (unpacker.envelope == NULL) {
        assert(record_unpacker_new(&unpacker) == 0);
    }

    CLEANUP(copy_free) uint8_t *text = copy_of(bytes, length, NULL, 0);
    CLEANUP(request_destroy) struct request request = { 0 };
    struct field_errors errors = { 0 };
    enum request_verdict verdict =
        request_parse(&request, &errors, (struct slice){ text, (uint32_t)length }, 4711);
    if (verdict != REQUEST_OK) {
        assert(errors.count > 0 && errors.items[0].message[0] != '\0');
        return 0;
    }
    check_limits(&request.envelope, &request.body);

    request.envelope.tenant = slice_of("default");
    CLEANUP(buffer_destroy) struct buffer packed = { 0 };
    request_pack(&packed, &request);
    struct envelope envelope;
    struct job_body body;
    struct slice copy = { packed.bytes, (uint32_t)packed.length };
    assert(job_request_decode(&unpacker, copy, &envelope, &body) == 0);
    check_limits(&envelope, &body);
    assert(envelope.width == request.envelope.width && body.seed == request.body.seed);
    return 0;
}
