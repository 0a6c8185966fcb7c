#include "worker/picture_decode.h"
#include "common/scope.h"
#include <spng.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>
#include <webp/decode.h>

static void
free_bytes(void *bytes_p)
{
    free(*(void **)bytes_p);
}

static enum picture_verdict
wrong_size(struct picture_check *check, uint32_t width, uint32_t height)
{
    snprintf(check->message, sizeof check->message, "asked %ux%u, got %ux%u", check->width,
             check->height, width, height);
    return PICTURE_WRONG_SIZE;
}

static enum picture_verdict
undecodable(struct picture_check *check, const char *what)
{
    snprintf(check->message, sizeof check->message, "%s", what);
    return PICTURE_UNDECODABLE;
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
        return wrong_size(check, header.width, header.height);
    }
    return PICTURE_OK;
}

/* Decodes to 8-bit RGB, whatever the PNG holds. *rgb is the caller's. */
static enum picture_verdict
decode_png(struct picture_check *check, const void *png, size_t length, uint8_t **rgb)
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
    if (rc == 0 && size != (size_t)check->width * check->height * PICTURE_CHANNELS) {
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

static enum picture_verdict
decode_jpeg(struct picture_check *check, const void *bytes, size_t length, uint8_t **rgb)
{
    int width = 0;
    int height = 0;
    int sampling = 0;
    int colours = 0;
    tjhandle decoder = tjInitDecompress();
    enum picture_verdict verdict = PICTURE_OK;
    if (decoder == NULL ||
        tjDecompressHeader3(decoder, bytes, length, &width, &height, &sampling, &colours) != 0) {
        verdict = undecodable(check, "not a JPEG");
    } else if (width != check->width || height != check->height) {
        verdict = wrong_size(check, (uint32_t)width, (uint32_t)height);
    } else {
        *rgb = malloc((size_t)width * (size_t)height * PICTURE_CHANNELS);
        /* A warning is a cut or damaged file: not delivered. */
        if (*rgb == NULL || tjDecompress2(decoder, bytes, length, *rgb, width, 0, height, TJPF_RGB,
                                          TJFLAG_STOPONWARNING) != 0) {
            verdict = undecodable(check, "bad JPEG");
        }
    }
    if (decoder != NULL) {
        tjDestroy(decoder);
    }
    return verdict;
}

static enum picture_verdict
decode_webp(struct picture_check *check, const void *bytes, size_t length, uint8_t **rgb)
{
    int width = 0;
    int height = 0;
    if (WebPGetInfo(bytes, length, &width, &height) == 0) {
        return undecodable(check, "not a WebP");
    }
    if (width != check->width || height != check->height) {
        return wrong_size(check, (uint32_t)width, (uint32_t)height);
    }
    size_t size = (size_t)width * (size_t)height * PICTURE_CHANNELS;
    *rgb = malloc(size);
    if (*rgb == NULL ||
        WebPDecodeRGBInto(bytes, length, *rgb, size, width * PICTURE_CHANNELS) == NULL) {
        return undecodable(check, "bad WebP");
    }
    return PICTURE_OK;
}

static enum picture_format
format_of(const uint8_t *bytes, size_t length)
{
    if (length > 3 && memcmp(bytes, "\xFF\xD8\xFF", 3) == 0) {
        return PICTURE_JPEG;
    }
    if (length > 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0) {
        return PICTURE_WEBP;
    }
    return PICTURE_PNG;
}

enum picture_verdict
picture_decode(struct picture_check *check, const void *bytes, size_t length, uint8_t **rgb,
               enum picture_format *came_as)
{
    CLEANUP(free_bytes) uint8_t *pixels = NULL;
    enum picture_verdict verdict = PICTURE_UNDECODABLE;
    *came_as = format_of(bytes, length);
    switch (*came_as) {
    case PICTURE_PNG:
        verdict = decode_png(check, bytes, length, &pixels);
        break;
    case PICTURE_JPEG:
        verdict = decode_jpeg(check, bytes, length, &pixels);
        break;
    case PICTURE_WEBP:
        verdict = decode_webp(check, bytes, length, &pixels);
        break;
    case PICTURE_FORMAT_COUNT:
        break;
    }
    if (verdict == PICTURE_OK) {
        *rgb = pixels;
        pixels = NULL;
    }
    return verdict;
}
