#pragma once
/*
 * picture_decode — a picture as an instance gave it, to pixels.
 *
 * PNG is what drivers ask for; Gradio apps give WebP or JPEG as they like. The format is told by
 * the first bytes, never by what the server says. The size is compared before memory for it is
 * taken.
 */
#include "worker/picture.h"

enum { PICTURE_CHANNELS = 3 };

/* Decodes to 8-bit RGB of the asked size; *rgb is malloc'ed, the caller's, and set for PICTURE_OK
 * alone. On failure check->message says why. */
enum picture_verdict picture_decode(struct picture_check *check, const void *bytes, size_t length,
                                    uint8_t **rgb, enum picture_format *came_as);
