/* websocket and its frames. */
#include "common/clock.h"
#include "common/scope.h"
#include "tests/unit/websocket_world.h"
#include "worker/drivers/websocket.h"
#include "worker/drivers/websocket_frames.h"
#include <errno.h>

/* -- the handshake -- */

static const char accept_word[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#define ANSWER(lines) "HTTP/1.1 101 Switching Protocols\r\n" lines "\r\n"
#define GOOD                                                                                       \
    "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"                                    \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

static enum websocket_answer
read_answer(const char *text, size_t length, int *status)
{
    size_t used = 0;
    enum websocket_answer answer = websocket_answer_read(text, length, accept_word, status, &used);
    cr_assert(eq(sz, used, answer == WEBSOCKET_ACCEPTED ? strlen(text) : 0));
    return answer;
}

TestSuite(websocket, .timeout = 30);

Test(websocket, an_answer_is_accepted_when_it_is_whole_and_not_before)
{
    static const char answer[] = ANSWER(GOOD);
    int status = 0;
    for (size_t n = 0; n < sizeof answer - 1; n++) {
        cr_assert(eq(int, read_answer(answer, n, &status), WEBSOCKET_UNFINISHED), "at %zu", n);
    }
    cr_assert(eq(int, read_answer(answer, sizeof answer - 1, &status), WEBSOCKET_ACCEPTED));
    cr_assert(eq(int, status, 101));
}

Test(websocket, an_answer_that_agrees_to_something_else_is_refused)
{
    static const char *const bad[] = {
        "HTTP/1.1 403 Forbidden\r\n",
        "HTTP/1.1 200 OK\r\n" GOOD "\r\n",
        "HTTP/1.1 1010 Odd\r\n" GOOD "\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        ANSWER(""),
        ANSWER("Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        ANSWER("Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        ANSWER("Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        ANSWER("Upgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOp=\r\n"),
        ANSWER(GOOD "Sec-WebSocket-Protocol: chat\r\n"),
        ANSWER(GOOD "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        ANSWER(GOOD "no header\r\n"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        int status = 0;
        cr_assert(eq(int, read_answer(bad[i], strlen(bad[i]), &status), WEBSOCKET_REFUSED),
                  "case %zu", i);
    }
}

Test(websocket, an_answer_without_an_end_is_refused_at_the_limit)
{
    char answer[LIMIT_WEBSOCKET_ANSWER + 1];
    int status = 0;
    memset(answer, 'a', sizeof answer);
    memcpy(answer, "HTTP/1.1 101 \r\n", 15);
    size_t used = 0;
    cr_assert(eq(
        int, websocket_answer_read(answer, LIMIT_WEBSOCKET_ANSWER - 1, accept_word, &status, &used),
        WEBSOCKET_UNFINISHED));
    cr_assert(eq(int,
                 websocket_answer_read(answer, LIMIT_WEBSOCKET_ANSWER, accept_word, &status, &used),
                 WEBSOCKET_REFUSED));
}

/* -- frames -- */

/* What comes out of the bytes, as words: "text:abc ping:hi close broken". */
static const char *
frames_of(const void *bytes, size_t length)
{
    static const char *const names[] = { [WEBSOCKET_TEXT] = "text",
                                         [WEBSOCKET_PING] = "ping",
                                         [WEBSOCKET_PONG] = "pong",
                                         [WEBSOCKET_CLOSE] = "close",
                                         [WEBSOCKET_BROKEN] = "broken" };
    static char words[512];
    struct websocket_frames frames = { 0 };
    size_t n = 0;
    words[0] = '\0';
    for (size_t at = 0; at < length;) {
        size_t used = 0;
        enum websocket_event event =
            websocket_frames_read(&frames, (const char *)bytes + at, length - at, &used);
        at += used;
        if (event == WEBSOCKET_NONE) {
            break;
        }
        n += (size_t)snprintf(words + n, sizeof words - n, "%s%s", n == 0 ? "" : " ", names[event]);
        if (event == WEBSOCKET_BROKEN) {
            break;
        }
        n += (size_t)snprintf(
            words + n, sizeof words - n, ":%.*s",
            (int)(event == WEBSOCKET_TEXT ? frames.text_length : frames.control_length),
            event == WEBSOCKET_TEXT ? frames.text : (const char *)frames.control);
    }
    websocket_frames_clear(&frames);
    return words;
}

#define FRAMES(literal) ((char *)frames_of(literal, sizeof(literal) - 1))

Test(websocket, texts_come_whole_also_from_fragments_with_a_ping_between)
{
    cr_assert(eq(str, FRAMES("\x81\x02{}"), (char *)"text:{}"));
    cr_assert(eq(str, FRAMES("\x81\x00"), (char *)"text:"));
    cr_assert(eq(str,
                 FRAMES("\x01\x01"
                        "a\x89\x02hi\x00\x01"
                        "b\x80\x01"
                        "c\x8a\x00"),
                 (char *)"ping:hi text:abc pong:"));
    cr_assert(eq(str, FRAMES("\x88\x02\x03\xe8"), (char *)"close:\x03\xe8"));
}

Test(websocket, binary_messages_are_skipped_without_being_kept)
{
    cr_assert(eq(str, FRAMES("\x02\x02\x01\x02\x80\x01\x03\x81\x01z"), (char *)"text:z"));
    struct websocket_frames frames = { 0 };
    size_t used = 0;
    static const uint8_t head[] = { 0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0 }; /* 4 GiB */
    static char block[1 << 20];
    cr_assert(zero(int, websocket_frames_read(&frames, head, sizeof head, &used)));
    for (size_t i = 0; i < 4096; i++) {
        cr_assert(zero(int, websocket_frames_read(&frames, block, sizeof block, &used)));
        cr_assert(eq(sz, used, sizeof block));
    }
    cr_assert(zero(sz, frames.text_allocated));
    cr_assert(eq(u64, frames.skipped, 1));
    cr_assert(eq(int, websocket_frames_read(&frames, "\x81\x01y", 3, &used), WEBSOCKET_TEXT));
    websocket_frames_clear(&frames);
}

Test(websocket, a_text_over_the_limit_is_skipped_and_one_at_it_is_not)
{
    for (uint32_t over = 0; over < 2; over++) {
        struct websocket_frames frames = { 0 };
        uint32_t length = LIMIT_WEBSOCKET_TEXT + over;
        uint8_t head[] = { 0x81,
                           127,
                           0,
                           0,
                           0,
                           0,
                           (uint8_t)(length >> 24),
                           (uint8_t)(length >> 16),
                           (uint8_t)(length >> 8),
                           (uint8_t)length };
        char *bytes = calloc(1, length);
        size_t used = 0;
        cr_assert(zero(int, websocket_frames_read(&frames, head, sizeof head, &used)));
        cr_assert(eq(int, websocket_frames_read(&frames, bytes, length, &used),
                     over ? WEBSOCKET_NONE : WEBSOCKET_TEXT));
        cr_assert(eq(u64, frames.skipped, over));
        free(bytes);
        websocket_frames_clear(&frames);
    }
}

Test(websocket, what_breaks_the_protocol_is_broken)
{
    cr_assert(eq(str, FRAMES("\xc1\x00"), (char *)"broken"), "a reserved bit");
    cr_assert(eq(str, FRAMES("\x81\x81"), (char *)"broken"), "masked");
    cr_assert(eq(str, FRAMES("\x80\x00"), (char *)"broken"), "a continuation of nothing");
    cr_assert(eq(str,
                 FRAMES("\x01\x01"
                        "a\x81\x00"),
                 (char *)"broken"),
              "a text inside of one");
    cr_assert(eq(str, FRAMES("\x09\x00"), (char *)"broken"), "a control in fragments");
    cr_assert(eq(str, FRAMES("\x89\x7e\x00\x7e"), (char *)"broken"), "a long control");
    cr_assert(eq(str, FRAMES("\x83\x00"), (char *)"broken"), "an unknown kind");
    cr_assert(eq(str, FRAMES("\x8b\x00"), (char *)"broken"), "an unknown control");
    cr_assert(eq(str, FRAMES("\x81\x7e\x00\x7d"), (char *)"broken"), "a length in a longer form");
    cr_assert(eq(str, FRAMES("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"), (char *)"broken"),
              "a length with a sign");
    cr_assert(eq(str, FRAMES("\x88\x01x"), (char *)"broken"), "half a code");
}

Test(websocket, a_control_frame_is_masked)
{
    static const uint8_t mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
    static const uint8_t hello[] = { 0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d,
                                     0x7f, 0x9f, 0x4d, 0x51, 0x58 }; /* RFC 6455, 5.7 */
    uint8_t out[WEBSOCKET_FRAME];
    cr_assert(eq(sz, websocket_control(out, WEBSOCKET_OP_PONG, "Hello", 5, mask), sizeof hello));
    cr_assert(zero(int, memcmp(out, hello, sizeof hello)));
}

/* -- the client -- */

struct world {
    struct reactor *reactor;
    struct timer *limit;
    struct door door;
    struct websocket *socket;
    char heard[512], why[128];
    bool closes; /* when it hears a text */
};

static void
hear(struct world *world, const char *word, const char *more)
{
    size_t used = strlen(world->heard);
    snprintf(world->heard + used, sizeof world->heard - used, "%s%s%s", used == 0 ? "" : " ", word,
             more);
    reactor_stop(world->reactor, 0);
}

static void
on_open(void *context)
{
    hear(context, "open", "");
}

static void
on_text(void *context, const char *text, size_t length)
{
    struct world *world = context;
    cr_assert(eq(sz, strlen(text), length));
    hear(world, "text:", text);
    if (world->closes) {
        websocket_close(&world->socket);
    }
}

static void
on_end(void *context, const char *why)
{
    struct world *world = context;
    hear(world, "end:", why);
    websocket_close(&world->socket);
}

static void
too_late(void *context)
{
    struct world *world = context;
    reactor_stop(world->reactor, -ETIMEDOUT);
}

/* Turns until `words` were heard in all. */
static void
turn_until_heard(struct world *world, const char *words)
{
    timer_in_ms(world->limit, 5000);
    while (strcmp(world->heard, words) != 0) {
        int rc = reactor_run(world->reactor);
        cr_assert(zero(int, rc), "heard: %s, not: %s", world->heard, words);
    }
    timer_stop(world->limit);
}

static void
open_world(struct world *world)
{
    process_setup();
    cr_assert(zero(int, reactor_new(&world->reactor, false)));
    cr_assert(zero(int, timer_new(&world->limit, world->reactor, too_late, world)));
    door_open(&world->door, world->reactor, 0);
}

static int
open_socket(struct world *world, const char *scheme, const char *address)
{
    char url[128];
    struct websocket_config config = { .url = url,
                                       .address = address,
                                       .authorization = "Authorization: Bearer k",
                                       .on_open = on_open,
                                       .on_text = on_text,
                                       .on_end = on_end,
                                       .context = world };
    snprintf(url, sizeof url, "%s://one.example:%u/ws?clientId=c", scheme, world->door.port);
    return websocket_open(&world->socket, world->reactor, &config);
}

static void
close_world(struct world *world)
{
    websocket_close(&world->socket);
    door_close(&world->door);
    timer_destroy(&world->limit);
    reactor_destroy(&world->reactor);
}

Test(websocket, it_opens_hears_answers_pings_and_is_closed_by_the_server)
{
    struct world world = { 0 };
    open_world(&world);
    cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
    turn_until_heard(&world, "open");
    cr_assert(zero(int, strncmp(world.door.asked, "GET /ws?clientId=c HTTP/1.1\r\n", 29)));
    cr_assert(strstr(world.door.asked, "\r\nHost: one.example:") != NULL);
    cr_assert(strstr(world.door.asked, "\r\nAuthorization: Bearer k\r\n") != NULL);
    door_frame(&world.door, 0x89, "ping", 4);
    door_frame(&world.door, 0x82, "picture", 7);
    door_text(&world.door, "{}");
    turn_until_heard(&world, "open text:{}");
    door_frame(&world.door, 0x88, "\x03\xe9", 2);
    struct evbuffer *said = bufferevent_get_input(world.door.socket);
    bufferevent_setcb(world.door.socket, NULL, NULL, NULL, NULL); /* it stays to be looked at */
    turn_until_heard(&world, "open text:{} end:closed by the server");
    event_base_loop(world.door.base, EVLOOP_NONBLOCK);
    uint8_t frames[32] = { 0 };
    cr_assert(eq(sz, evbuffer_get_length(said), 10 + 8), "a pong and a close");
    evbuffer_remove(said, frames, 18);
    cr_assert(eq(u8, frames[0], 0x8a));
    cr_assert(eq(u8, frames[1], 0x84));
    cr_assert(eq(u8, frames[6] ^ frames[2], 'p'));
    cr_assert(eq(u8, frames[10], 0x88));
    close_world(&world);
}

Test(websocket, what_is_refused_or_cut_is_told_once)
{
    static const struct {
        const char *refusal;
        bool bad_accept;
        const char *heard;
    } cases[] = {
        { "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false, "end:HTTP 404" },
        { "220 mail.example ESMTP\r\n", false, "end:no HTTP" },
        { NULL, true, "end:HTTP 101" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct world world = { .door = { .refusal = cases[i].refusal,
                                         .bad_accept = cases[i].bad_accept } };
        open_world(&world);
        cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
        turn_until_heard(&world, cases[i].heard);
        cr_assert(world.socket == NULL);
        close_world(&world);
    }
    struct world world = { 0 };
    open_world(&world);
    cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
    turn_until_heard(&world, "open");
    door_drop(&world.door);
    turn_until_heard(&world, "open end:the connection was closed");
    close_world(&world);
}

Test(websocket, nobody_there_is_told_from_the_loop)
{
    struct world world = { 0 };
    open_world(&world);
    evconnlistener_free(world.door.listener);
    world.door.listener = NULL;
    cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
    cr_assert(zero(sz, strlen(world.heard)));
    turn_until_heard(&world, "end:Connection refused");
    close_world(&world);
}

Test(websocket, no_answer_to_the_handshake_ends_it_at_the_limit)
{
    struct world world = { .door = { .refusal = "HTTP/1.1 101 Switching" } };
    open_world(&world);
    int64_t begun_ms = clock_mono_ms();
    cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
    turn_until_heard(&world, "end:no answer");
    cr_assert(ge(i64, clock_mono_ms() - begun_ms, LIMIT_WEBSOCKET_OPEN_MS));
    close_world(&world);
}

Test(websocket, it_may_be_closed_inside_a_text_with_more_to_come)
{
    struct world world = { .closes = true };
    open_world(&world);
    cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
    turn_until_heard(&world, "open");
    door_text(&world.door, "1");
    door_text(&world.door, "2");
    turn_until_heard(&world, "open text:1");
    event_base_loop(world.door.base, EVLOOP_NONBLOCK);
    cr_assert(eq(str, world.heard, (char *)"open text:1"));
    close_world(&world);
}

Test(websocket, garbage_ends_it)
{
    struct world world = { 0 };
    open_world(&world);
    cr_assert(zero(int, open_socket(&world, "http", "127.0.0.1")));
    turn_until_heard(&world, "open");
    door_say(&world.door, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10);
    turn_until_heard(&world, "open end:no WebSocket frames");
    close_world(&world);
}

Test(websocket, https_and_names_for_addresses_are_refused_at_once)
{
    struct world world = { 0 };
    open_world(&world);
    cr_assert(eq(int, open_socket(&world, "https", "127.0.0.1"), -EPROTONOSUPPORT));
    cr_assert(eq(int, open_socket(&world, "http", "localhost"), -EINVAL));
    cr_assert(eq(int, open_socket(&world, "http", ""), -EINVAL));
    cr_assert(world.socket == NULL);
    close_world(&world);
}
