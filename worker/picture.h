#pragma once
/*
 * picture — checks a drawn picture and encodes it as asked. For the helper thread: can take 100 ms.
 */
#include "proto/job.h"

enum picture_verdict {
    PICTURE_OK,
    PICTURE_UNDECODABLE,
    PICTURE_WRONG_SIZE,
    PICTURE_UNIFORM, /* every channel within LIMIT_UNIFORM_SPREAD over the whole picture */
    PICTURE_VERDICT_COUNT,
};

struct picture_check {
    uint16_t width, height;     /* asked */
    enum picture_format format; /* asked */
    uint8_t quality;            /* 1..100 */
    bool accept_uniform;        /* encode a one-coloured picture all the same */
    /* out */
    void *bytes; /* malloc'ed encoded picture, the caller's; may be the input itself */
    size_t length;
    uint8_t sha256[32]; /* of `bytes` */
    char message[160];  /* what is wrong, for people: "asked 64x64, got 32x32" */
};

/* Decodes bytes (PNG, WebP or JPEG; malloc'ed; taken over: freed or returned as check->bytes),
 * checks the picture and encodes it. A PNG asked for as PNG passes through; anything else is
 * encoded, also WebP to WebP: its quality is what was asked for. With PICTURE_UNIFORM bytes and
 * sha256 are set too (the caller frees). */
enum picture_verdict picture_check(struct picture_check *check, void *bytes, size_t length);
