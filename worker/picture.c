#include "worker/picture.h"
#include "common/scope.h"
#include <sodium.h>
#include <spng.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>
#include <webp/encode.h>

enum { CHANNELS = 3 };

static void
free_bytes(void *bytes_p)
{
    free(*(void **)bytes_p);
}

static void
free_spng(spng_ctx **context_p)
{
    spng_ctx_free(*context_p);
}

/* Opens the PNG and compares its size with the asked one, before anything as large as the picture
 * is allocated: a small file that unpacks to gigabytes is refused here. */
static enum picture_verdict
read_header(struct picture_check *check, spng_ctx *context, const void *png, size_t length)
{
    struct spng_ihdr header;
    spng_set_image_limits(context, LIMIT_SIDE_MAX, LIMIT_SIDE_MAX);
    spng_set_chunk_limits(context, LIMIT_PNG_CHUNK, LIMIT_PNG_CHUNKS);
    int rc = spng_set_png_buffer(context, png, length);
    rc = rc ? rc : spng_get_ihdr(context, &header);
    if (rc == SPNG_EUSER_WIDTH || rc == SPNG_EUSER_HEIGHT) {
        snprintf(check->message, sizeof check->message, "asked %ux%u, got a side over %d",
                 check->width, check->height, LIMIT_SIDE_MAX);
        return PICTURE_WRONG_SIZE;
    }
    if (rc != 0) {
        snprintf(check->message, sizeof check->message, "not a PNG: %s", spng_strerror(rc));
        return PICTURE_UNDECODABLE;
    }
    if (header.width != check->width || header.height != check->height) {
        snprintf(check->message, sizeof check->message, "asked %ux%u, got %ux%u", check->width,
                 check->height, header.width, header.height);
        return PICTURE_WRONG_SIZE;
    }
    return PICTURE_OK;
}

/* Decodes to 8-bit RGB, whatever the PNG holds. *rgb is the caller's. */
static enum picture_verdict
decode(struct picture_check *check, const void *png, size_t length, uint8_t **rgb)
{
    CLEANUP(free_spng) spng_ctx *context = spng_ctx_new(0);
    CLEANUP(free_bytes) uint8_t *pixels = NULL;
    size_t size = 0;
    if (context == NULL) {
        snprintf(check->message, sizeof check->message, "no memory");
        return PICTURE_UNDECODABLE;
    }
    enum picture_verdict verdict = read_header(check, context, png, length);
    if (verdict != PICTURE_OK) {
        return verdict;
    }
    int rc = spng_decoded_image_size(context, SPNG_FMT_RGB8, &size);
    if (rc == 0 && size != (size_t)check->width * check->height * CHANNELS) {
        rc = SPNG_EINTERNAL;
    }
    if (rc == 0) {
        pixels = malloc(size);
        rc = pixels == NULL ? SPNG_EMEM : 0;
    }
    rc = rc ? rc : spng_decode_image(context, pixels, size, SPNG_FMT_RGB8, 0);
    rc = rc ? rc : spng_decode_chunks(context); /* to the end: a cut file is not delivered */
    if (rc != 0) {
        snprintf(check->message, sizeof check->message, "bad PNG: %s", spng_strerror(rc));
        return PICTURE_UNDECODABLE;
    }
    *rgb = pixels;
    pixels = NULL;
    return PICTURE_OK;
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

enum picture_verdict
picture_check(struct picture_check *check, void *png, size_t length)
{
    CLEANUP(free_bytes) void *input = png;
    CLEANUP(free_bytes) uint8_t *rgb = NULL;
    check->bytes = NULL;
    check->length = 0;
    check->message[0] = '\0';
    if (input == NULL || length == 0 || length > LIMIT_PICTURE_BYTES) {
        snprintf(check->message, sizeof check->message, "%zu bytes, allowed are 1 to %d", length,
                 LIMIT_PICTURE_BYTES);
        return PICTURE_UNDECODABLE;
    }
    enum picture_verdict verdict = decode(check, input, length, &rgb);
    if (verdict != PICTURE_OK) {
        return verdict;
    }
    int rc = 0;
    switch (check->format) {
    case PICTURE_PNG:
        check->bytes = input;
        check->length = length;
        input = NULL;
        break;
    case PICTURE_JPEG:
        rc = encode_jpeg(check, rgb);
        break;
    case PICTURE_WEBP:
        rc = encode_webp(check, rgb);
        break;
    case PICTURE_FORMAT_COUNT:
        rc = -1;
        break;
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
