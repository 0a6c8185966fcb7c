#include "worker/picture.h"
#include "common/scope.h"
#include "worker/picture_decode.h"
#include <sodium.h>
#include <spng.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>
#include <webp/encode.h>

enum {
    CHANNELS = PICTURE_CHANNELS,
    PNG_LEVEL = 1
}; /* zlib: what was lossy before packs badly at any level */

static void
free_bytes(void *bytes_p)
{
    free(*(void **)bytes_p);
}

/* One colour: each channel stays within +- LIMIT_UNIFORM_SPREAD of its middle. */
static bool
is_uniform(const uint8_t *rgb, size_t n_pixels)
{
    uint8_t low[CHANNELS];
    uint8_t high[CHANNELS];
    memcpy(low, rgb, CHANNELS);
    memcpy(high, rgb, CHANNELS);
    for (size_t i = 1; i < n_pixels; i++) {
        for (size_t c = 0; c < CHANNELS; c++) {
            uint8_t value = rgb[i * CHANNELS + c];
            low[c] = value < low[c] ? value : low[c];
            high[c] = value > high[c] ? value : high[c];
            if (high[c] - low[c] > 2 * LIMIT_UNIFORM_SPREAD) {
                return false; /* in a real picture after a few pixels */
            }
        }
    }
    return true;
}

static int
encode_jpeg(struct picture_check *check, const uint8_t *rgb)
{
    /* Colour at full resolution where quality is asked for. */
    int sampling = check->quality >= 90 ? TJSAMP_444 : TJSAMP_420;
    unsigned long size = tjBufSize(check->width, check->height, sampling);
    unsigned char *out = size == (unsigned long)-1 ? NULL : malloc(size);
    tjhandle encoder = tjInitCompress();
    int rc = -1;
    if (out != NULL && encoder != NULL) {
        rc = tjCompress2(encoder, rgb, check->width, 0, check->height, TJPF_RGB, &out, &size,
                         sampling, check->quality, TJFLAG_NOREALLOC);
    }
    if (encoder != NULL) {
        tjDestroy(encoder);
    }
    if (rc != 0) {
        free(out);
        return -1;
    }
    check->bytes = realloc(out, size); /* the bound is several times what is needed */
    check->bytes = check->bytes == NULL ? out : check->bytes;
    check->length = size;
    return 0;
}

static int
encode_webp(struct picture_check *check, const uint8_t *rgb)
{
    uint8_t *encoded = NULL;
    size_t size = WebPEncodeRGB(rgb, check->width, check->height, check->width * CHANNELS,
                                check->quality, &encoded);
    check->bytes = size == 0 ? NULL : malloc(size);
    if (check->bytes != NULL) {
        memcpy(check->bytes, encoded, size);
        check->length = size;
    }
    WebPFree(encoded);
    return check->bytes == NULL ? -1 : 0;
}

/* What came in another format and is asked for as PNG. */
static int
encode_png(struct picture_check *check, const uint8_t *rgb)
{
    struct spng_ihdr header = { .width = check->width,
                                .height = check->height,
                                .bit_depth = 8,
                                .color_type = SPNG_COLOR_TYPE_TRUECOLOR };
    spng_ctx *context = spng_ctx_new(SPNG_CTX_ENCODER);
    int rc = context == NULL ? SPNG_EMEM : spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
    rc = rc ? rc : spng_set_option(context, SPNG_IMG_COMPRESSION_LEVEL, PNG_LEVEL);
    rc = rc ? rc : spng_set_ihdr(context, &header);
    rc = rc ? rc
            : spng_encode_image(context, rgb, (size_t)check->width * check->height * CHANNELS,
                                SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    if (rc == 0) {
        check->bytes = spng_get_png_buffer(context, &check->length, &rc);
    }
    spng_ctx_free(context);
    return rc == 0 ? 0 : -1;
}

static int
encode(struct picture_check *check, const uint8_t *rgb)
{
    switch (check->format) {
    case PICTURE_PNG:
        return encode_png(check, rgb);
    case PICTURE_JPEG:
        return encode_jpeg(check, rgb);
    case PICTURE_WEBP:
        return encode_webp(check, rgb);
    case PICTURE_FORMAT_COUNT:
        break;
    }
    return -1;
}

enum picture_verdict
picture_check(struct picture_check *check, void *bytes, size_t length)
{
    CLEANUP(free_bytes) void *input = bytes;
    CLEANUP(free_bytes) uint8_t *rgb = NULL;
    enum picture_format came_as = PICTURE_FORMAT_COUNT;
    check->bytes = NULL;
    check->length = 0;
    check->message[0] = '\0';
    if (input == NULL || length == 0 || length > LIMIT_PICTURE_BYTES) {
        snprintf(check->message, sizeof check->message, "%zu bytes, allowed are 1 to %d", length,
                 LIMIT_PICTURE_BYTES);
        return PICTURE_UNDECODABLE;
    }
    enum picture_verdict verdict = picture_decode(check, input, length, &rgb, &came_as);
    if (verdict != PICTURE_OK) {
        return verdict;
    }
    int rc = 0;
    if (came_as == PICTURE_PNG && check->format == PICTURE_PNG) {
        check->bytes = input;
        check->length = length;
        input = NULL;
    } else {
        rc = encode(check, rgb);
    }
    if (rc != 0) {
        snprintf(check->message, sizeof check->message, "cannot be encoded as asked");
        return PICTURE_UNDECODABLE;
    }
    crypto_hash_sha256(check->sha256, check->bytes, check->length);
    if (!check->accept_uniform && is_uniform(rgb, (size_t)check->width * check->height)) {
        snprintf(check->message, sizeof check->message, "one colour all over (%u, %u, %u)", rgb[0],
                 rgb[1], rgb[2]);
        return PICTURE_UNIFORM;
    }
    return PICTURE_OK;
}
