/* fuzz_websocket — any bytes for a server's answer to a handshake, and any bytes for its frames.
 * How the network cuts them changes nothing: the same events come from one block and from many.
 * What a ping held comes back from its pong. */
#include "common/scope.h"
#include "tests/fuzz/copy.h"
#include "worker/drivers/websocket_frames.h"
#include <assert.h>
#include <stdbool.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static const char accept_word[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static void
note(uint64_t *sum, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < length; i++) {
        *sum = (*sum ^ at[i]) * 1099511628211U;
    }
}

static void
check_pong(const struct websocket_frames *frames)
{
    static const uint8_t mask[4] = { 1, 2, 3, 4 };
    uint8_t pong[WEBSOCKET_FRAME];
    size_t length =
        websocket_control(pong, WEBSOCKET_OP_PONG, frames->control, frames->control_length, mask);
    assert(length == 6 + frames->control_length && pong[0] == 0x8A);
    assert((pong[1] & 0x80) != 0 && (size_t)(pong[1] & 0x7F) == frames->control_length);
    for (size_t i = 0; i < frames->control_length; i++) {
        assert((pong[6 + i] ^ mask[i % 4]) == frames->control[i]);
    }
}

/* Reads all in blocks of `step`, or of every length from 1 on if it is 0. Returns what came. */
static uint64_t
read_all(const uint8_t *bytes, size_t length, size_t step)
{
    struct websocket_frames frames = { 0 };
    uint64_t sum = 14695981039346656037U;
    size_t grows = 1;
    bool broken = false;
    while (length > 0 && !broken) {
        size_t n = step == 0 ? grows++ : step;
        n = n < length ? n : length;
        CLEANUP(copy_free) uint8_t *block = copy_of(bytes, n, NULL, 0);
        for (size_t at = 0; at < n && !broken;) {
            size_t used = 0;
            enum websocket_event event = websocket_frames_read(&frames, block + at, n - at, &used);
            assert(used > 0 && used <= n - at);
            assert(frames.text_allocated <= 2 * (LIMIT_WEBSOCKET_TEXT + 1));
            at += used;
            broken = event == WEBSOCKET_BROKEN;
            if (event == WEBSOCKET_NONE) {
                assert(at == n);
                continue;
            }
            note(&sum, &event, sizeof event);
            if (event == WEBSOCKET_TEXT) {
                assert(frames.text[frames.text_length] == '\0');
                assert(frames.text_length <= LIMIT_WEBSOCKET_TEXT);
                note(&sum, frames.text, frames.text_length);
            } else if (!broken) {
                note(&sum, frames.control, frames.control_length);
                check_pong(&frames);
            }
        }
        bytes += n;
        length -= n;
    }
    if (broken) { /* and it stays so */
        size_t used = 0;
        assert(websocket_frames_read(&frames, "x", 1, &used) == WEBSOCKET_BROKEN && used == 0);
    } else {
        note(&sum, &frames.skipped, sizeof frames.skipped);
    }
    websocket_frames_clear(&frames);
    return sum;
}

/* What is accepted whole was unfinished at every shorter length. */
static void
check_answer(const uint8_t *bytes, size_t length)
{
    int status = 0;
    size_t used = 0;
    CLEANUP(copy_free) uint8_t *whole = copy_of(bytes, length, NULL, 0);
    enum websocket_answer answer =
        websocket_answer_read((const char *)whole, length, accept_word, &status, &used);
    assert(status >= 0 && status <= 999 && used <= length);
    if (answer != WEBSOCKET_ACCEPTED) {
        assert(used == 0);
        return;
    }
    assert(status == 101 && memmem(whole, used, accept_word, strlen(accept_word)) != NULL);
    for (size_t n = 0; n < used; n++) {
        size_t none = 0;
        CLEANUP(copy_free) uint8_t *part = copy_of(bytes, n, NULL, 0);
        assert(websocket_answer_read((const char *)part, n, accept_word, &status, &none) ==
               WEBSOCKET_UNFINISHED);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    uint64_t sum = read_all(bytes, length, SIZE_MAX);
    assert(read_all(bytes, length, 1) == sum);
    assert(read_all(bytes, length, 0) == sum);
    check_answer(bytes, length);
    return 0;
}
