#pragma once
/*
 * websocket_frames — the bytes of a WebSocket (RFC 6455), a client's side. Pure: no I/O.
 *
 *     bytes --> websocket_answer_read --> WEBSOCKET_ACCEPTED, then
 *     bytes --> websocket_frames_read --> TEXT, PING, PONG, CLOSE, each once it is whole
 *
 * A text may come in fragments, with control frames between them. Binary messages, and texts over
 * LIMIT_WEBSOCKET_TEXT, are counted and skipped: not one byte of them is kept. No extension is
 * known, so reserved bits are a fault, as is a frame that is masked. Whether a text is UTF-8 is
 * left to whoever reads it.
 */
#include "common/limits.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* -- the handshake -- */

enum websocket_answer {
    WEBSOCKET_UNFINISHED, /* more bytes are needed */
    WEBSOCKET_ACCEPTED,   /* *used bytes were the answer; frames follow */
    WEBSOCKET_REFUSED,    /* another status than 101, or an answer that is none */
};

/* Reads a server's answer from its first byte; `accept` is what Sec-WebSocket-Accept must say. The
 * status is 0 until it is known. Over LIMIT_WEBSOCKET_ANSWER bytes without an end is REFUSED. */
enum websocket_answer websocket_answer_read(const char *bytes, size_t length, const char *accept,
                                            int *status, size_t *used);

/* -- frames -- */

enum websocket_event {
    WEBSOCKET_NONE, /* all bytes are taken, nothing is whole */
    WEBSOCKET_TEXT, /* text, text_length; NUL-terminated */
    WEBSOCKET_PING, /* control, control_length: to be answered by a pong of the same bytes */
    WEBSOCKET_PONG,
    WEBSOCKET_CLOSE,  /* control, control_length: two bytes of a code and a reason, or nothing */
    WEBSOCKET_BROKEN, /* the peer breaks the protocol; nothing more is read */
};

enum { WEBSOCKET_HEAD = 14, WEBSOCKET_CONTROL = 125 };

struct websocket_frames {
    char *text; /* of the message that is read; allocated */
    size_t text_length, text_allocated;
    uint64_t skipped; /* messages */
    uint8_t control[WEBSOCKET_CONTROL];
    size_t control_length;

    /* the frame that is read */
    uint8_t head[WEBSOCKET_HEAD];
    size_t head_length;
    uint64_t left; /* of its payload */
    bool in_payload;

    bool in_message; /* fragments of a text or a binary are expected */
    bool skips;      /* and it is not kept */
    bool broken;
};

/* Takes bytes up to the end of the next event and tells it; *used of them are taken. What the event
 * holds is good until the next call. Call it again while *used < length. */
enum websocket_event websocket_frames_read(struct websocket_frames *self, const void *bytes,
                                           size_t length, size_t *used);
void websocket_frames_clear(struct websocket_frames *self); /* as new; frees the text */

enum websocket_opcode { WEBSOCKET_OP_CLOSE = 8, WEBSOCKET_OP_PING = 9, WEBSOCKET_OP_PONG = 10 };
enum { WEBSOCKET_FRAME = 2 + 4 + WEBSOCKET_CONTROL };

/* Writes a client's control frame of at most WEBSOCKET_CONTROL bytes. Returns its length. */
size_t websocket_control(uint8_t out[WEBSOCKET_FRAME], enum websocket_opcode opcode,
                         const void *bytes, size_t length, const uint8_t mask[4]);
