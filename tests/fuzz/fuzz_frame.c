/* fuzz_frame — any bytes into frame_decode(). What decodes, encodes; and what that gives decodes to
 * the same bytes again: the decoder loses nothing that the encoder writes. */
#include "common/scope.h"
#include "proto/frames.h"
#include "tests/fuzz/copy.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct unpacker *unpacker;
    if (unpacker == NULL) {
        assert(unpacker_new(&unpacker) == 0);
    }

    CLEANUP(copy_free) uint8_t *message = copy_of(bytes, length, NULL, 0);
    struct frame frame;
    if (frame_decode(unpacker, message, length, &frame) != 0) {
        assert(unpack_error(unpacker) != NULL);
        return 0;
    }
    assert(frame.kind > FRAME_NONE && frame.kind < FRAME_KIND_COUNT);
    assert(frame_kind_name(frame.kind) != NULL);

    CLEANUP(buffer_destroy) struct buffer first = { 0 };
    frame_encode(&first, &frame);

    struct frame again;
    assert(frame_decode(unpacker, first.bytes, first.length, &again) == 0);
    assert(again.kind == frame.kind && again.session == frame.session &&
           again.epoch == frame.epoch);
    CLEANUP(buffer_destroy) struct buffer second = { 0 };
    frame_encode(&second, &again);
    assert(first.length == second.length && memcmp(first.bytes, second.bytes, first.length) == 0);
    return 0;
}
