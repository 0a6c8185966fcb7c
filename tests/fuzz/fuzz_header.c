/* fuzz_header — any 64 bytes into job_header_decode(), with their CRC made right in every second
 * input: a random CRC would keep the fuzzer out of everything behind the check. What decodes,
 * encodes to bytes that decode to the same header. */
#include "proto/job.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void
assert_same(const struct job_header *a, const struct job_header *b)
{
    assert(a->state == b->state && a->class_ == b->class_ && a->grant == b->grant);
    assert(a->tries == b->tries && a->epoch == b->epoch && a->worker == b->worker);
    assert(a->sequence == b->sequence && a->submit_ms == b->submit_ms);
    assert(a->start_ms == b->start_ms && a->change_ms == b->change_ms);
    assert(a->progress == b->progress && a->revision == b->revision && a->flags == b->flags);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct job_header header;
    if (job_header_decode(bytes, length, &header)) {
        uint8_t out[JOB_HEADER_BYTES];
        job_header_encode(&header, out);
        struct job_header again;
        assert(job_header_decode(out, sizeof(out), &again));
        assert_same(&header, &again);
    }
    if (length < sizeof(struct job_header)) {
        return 0;
    }

    /* The other way: any field values that obey the limits encode and decode. */
    memcpy(&header, bytes, sizeof(header));
    header.state = (uint8_t)(JOB_QUEUED + header.state % (JOB_STATE_COUNT - JOB_QUEUED));
    header.class_ = header.class_ % CLASS_COUNT;
    uint8_t out[JOB_HEADER_BYTES];
    job_header_encode(&header, out);
    struct job_header again;
    assert(job_header_decode(out, sizeof(out), &again));
    assert_same(&header, &again);

    /* One flipped bit is seen. */
    size_t bit = bytes[length - 1] + (size_t)bytes[length - 2] * 2;
    out[bit / 8 % JOB_HEADER_BYTES] ^= (uint8_t)(1U << bit % 8);
    assert(!job_header_decode(out, sizeof(out), &again));
    return 0;
}
