#pragma once
/*
 * sim_picture — draws the picture of the simulated instance: a landscape that no model made.
 *
 * Deterministic: the same prompt, seed, width and height give the same bytes. Each picture says in
 * letters, and in a tEXt chunk "Software", that it is simulated. Pure: no clock, no files; may run
 * on any thread.
 */
#include <stddef.h>
#include <stdint.h>

enum sim_picture_kind {
    SIM_PICTURE_GOOD,
    SIM_PICTURE_BLACK,      /* one colour */
    SIM_PICTURE_GARBAGE,    /* bytes that are no PNG */
    SIM_PICTURE_WRONG_SIZE, /* sound, but 16 pixels wider or narrower than asked */
    SIM_PICTURE_KIND_COUNT,
};

struct sim_picture {
    const char *prompt;
    uint32_t seed;
    uint32_t width, height; /* LIMIT_SIDE_MIN to LIMIT_SIDE_MAX */
    enum sim_picture_kind kind;
};

/* Draws and encodes; *bytes is malloc'ed. 0, -ENOMEM, or -EIO if the encoder failed. */
int sim_picture_draw(const struct sim_picture *picture, uint8_t **bytes, size_t *length);
