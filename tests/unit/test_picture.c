#include "worker/picture.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <sodium.h>
#include <spng.h>
#include <turbojpeg.h>
#include <webp/decode.h>

enum { SIDE = 64 };

/* A PNG of `type` whose samples come from fill(x, y, channel). */
static void *
draw(uint32_t width, uint32_t height, enum spng_color_type type, uint8_t (*fill)(int, int, int),
     size_t *length)
{
    size_t channels = type == SPNG_COLOR_TYPE_TRUECOLOR_ALPHA ? 4
                      : type == SPNG_COLOR_TYPE_GRAYSCALE     ? 1
                                                              : 3;
    size_t size = (size_t)width * height * channels;
    uint8_t *pixels = malloc(size);
    for (size_t i = 0; i < size; i++) {
        pixels[i] =
            fill((int)(i / channels % width), (int)(i / channels / width), (int)(i % channels));
    }
    struct spng_ihdr header = { .width = width, .height = height, .bit_depth = 8 };
    header.color_type = (uint8_t)type;
    spng_ctx *context = spng_ctx_new(SPNG_CTX_ENCODER);
    int rc = 0;
    spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
    spng_set_ihdr(context, &header);
    rc = spng_encode_image(context, pixels, size, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    cr_assert(zero(int, rc));
    void *png = spng_get_png_buffer(context, length, &rc);
    cr_assert(ne(ptr, png, NULL));
    spng_ctx_free(context);
    free(pixels);
    return png;
}

static uint8_t
gradient(int x, int y, int channel)
{
    return (uint8_t)(channel == 0 ? x * 3 : channel == 1 ? y * 3 : x + y);
}

static uint8_t
black(int x, int y, int channel)
{
    (void)x, (void)y;
    return channel == 3 ? 255 : 0;
}

/* 100 .. 104 is within +- 2 of 102. */
static uint8_t
nearly_one_colour(int x, int y, int channel)
{
    (void)channel;
    return (uint8_t)(100 + (x + y) % 5);
}

static uint8_t
just_two_colours(int x, int y, int channel)
{
    return (uint8_t)(channel == 2 && x == SIDE - 1 && y == SIDE - 1 ? 105 : 100);
}

static struct picture_check
asked(enum picture_format format)
{
    return (struct picture_check){ .width = SIDE, .height = SIDE, .format = format, .quality = 90 };
}

Test(picture, a_png_passes_through_unchanged_with_its_hash)
{
    size_t length = 0;
    uint8_t hash[32];
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, &length);
    struct picture_check check = asked(PICTURE_PNG);
    crypto_hash_sha256(hash, png, length);
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_OK), "%s", check.message);
    cr_assert(eq(ptr, check.bytes, png));
    cr_assert(eq(sz, check.length, length));
    cr_assert(zero(int, memcmp(check.sha256, hash, 32)));
    free(check.bytes);
}

Test(picture, jpeg_is_encoded_at_the_asked_size_and_close_to_the_picture)
{
    size_t length = 0;
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR_ALPHA, gradient, &length);
    struct picture_check check = asked(PICTURE_JPEG);
    uint8_t rgb[SIDE * SIDE * 3];
    uint8_t hash[32];
    int width = 0, height = 0, sampling = 0, space = 0;
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_OK), "%s", check.message);
    tjhandle decoder = tjInitDecompress();
    cr_assert(zero(int, tjDecompressHeader3(decoder, check.bytes, check.length, &width, &height,
                                            &sampling, &space)));
    cr_assert(eq(int, width, SIDE));
    cr_assert(eq(int, height, SIDE));
    cr_assert(zero(
        int, tjDecompress2(decoder, check.bytes, check.length, rgb, SIDE, 0, SIDE, TJPF_RGB, 0)));
    cr_assert(abs(rgb[(20 * SIDE + 40) * 3] - 120) < 8, "red of (40, 20) is %d",
              rgb[(20 * SIDE + 40) * 3]);
    crypto_hash_sha256(hash, check.bytes, check.length);
    cr_assert(zero(int, memcmp(check.sha256, hash, 32)), "the hash is of what is delivered");
    tjDestroy(decoder);
    free(check.bytes);
}

Test(picture, webp_is_encoded_at_the_asked_size)
{
    size_t length = 0;
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, &length);
    struct picture_check check = asked(PICTURE_WEBP);
    int width = 0, height = 0;
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_OK), "%s", check.message);
    cr_assert(WebPGetInfo(check.bytes, check.length, &width, &height));
    cr_assert(eq(int, width, SIDE));
    cr_assert(eq(int, height, SIDE));
    free(check.bytes);
}

/* What an app gives that chose another format than PNG. */
static void *
given(enum picture_format format, size_t *length)
{
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, length);
    struct picture_check check = asked(format);
    cr_assert(eq(int, picture_check(&check, png, *length), PICTURE_OK), "%s", check.message);
    *length = check.length;
    return check.bytes;
}

Test(picture, webp_and_jpeg_are_taken_and_become_what_was_asked_for)
{
    static const enum picture_format formats[] = { PICTURE_WEBP, PICTURE_JPEG };
    for (size_t i = 0; i < 2; i++) {
        size_t length = 0;
        void *bytes = given(formats[i], &length);
        struct picture_check check = asked(PICTURE_PNG);
        cr_assert(eq(int, picture_check(&check, bytes, length), PICTURE_OK), "%s", check.message);
        cr_assert(zero(int, memcmp(check.bytes, "\x89PNG", 4)));
        struct picture_check again = asked(PICTURE_JPEG);
        cr_assert(eq(int, picture_check(&again, check.bytes, check.length), PICTURE_OK), "%s",
                  again.message);
        free(again.bytes);
        bytes = given(formats[i], &length);
        check = asked(formats[i]);
        check.quality = 20;
        cr_assert(eq(int, picture_check(&check, bytes, length), PICTURE_OK));
        cr_assert(lt(sz, check.length, length), "the quality is what was asked for");
        free(check.bytes);
    }
}

Test(picture, webp_and_jpeg_of_another_size_or_cut_are_refused)
{
    static const enum picture_format formats[] = { PICTURE_WEBP, PICTURE_JPEG };
    for (size_t i = 0; i < 2; i++) {
        size_t length = 0;
        void *bytes = given(formats[i], &length);
        struct picture_check check = asked(PICTURE_PNG);
        check.width = 2 * SIDE;
        cr_assert(eq(int, picture_check(&check, bytes, length), PICTURE_WRONG_SIZE));
        cr_assert(eq(str, check.message, (char *)"asked 128x64, got 64x64"));
        bytes = given(formats[i], &length);
        check = asked(PICTURE_PNG);
        cr_assert(eq(int, picture_check(&check, bytes, length / 2), PICTURE_UNDECODABLE));
        cr_assert(eq(ptr, check.bytes, NULL));
    }
}

Test(picture, another_size_than_asked_is_told_with_both_sizes)
{
    size_t length = 0;
    void *png = draw(32, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, &length);
    struct picture_check check = asked(PICTURE_PNG);
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_WRONG_SIZE));
    cr_assert(eq(str, check.message, (char *)"asked 64x64, got 32x64"));
    cr_assert(eq(ptr, check.bytes, NULL));
}

Test(picture, garbage_a_cut_png_and_nothing_are_undecodable)
{
    size_t length = 0;
    struct picture_check check = asked(PICTURE_PNG);
    cr_assert(eq(int, picture_check(&check, strdup("<html>no</html>"), 15), PICTURE_UNDECODABLE));
    cr_assert(eq(int, picture_check(&check, NULL, 0), PICTURE_UNDECODABLE));
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, &length);
    cr_assert(eq(int, picture_check(&check, png, length / 2), PICTURE_UNDECODABLE));
    png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, &length);
    cr_assert(eq(int, picture_check(&check, png, length - 12), PICTURE_UNDECODABLE), "no IEND");
    png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, gradient, &length);
    ((uint8_t *)png)[length / 2] ^= 0x40;
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_UNDECODABLE), "a flipped bit");
}

Test(picture, a_picture_over_the_byte_limit_is_not_even_read)
{
    struct picture_check check = asked(PICTURE_PNG);
    void *one_byte = malloc(1);
    cr_assert(
        eq(int, picture_check(&check, one_byte, LIMIT_PICTURE_BYTES + 1), PICTURE_UNDECODABLE));
}

Test(picture, a_decompression_bomb_is_refused_by_its_header)
{
    size_t length = 0;
    uint8_t *png = draw(LIMIT_SIDE_MAX + 16, 8, SPNG_COLOR_TYPE_GRAYSCALE, black, &length);
    struct picture_check check = asked(PICTURE_PNG);
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_WRONG_SIZE));
    cr_assert(ne(ptr, strstr(check.message, "over 2048"), NULL), "%s", check.message);
}

Test(picture, one_colour_fails_but_is_encoded_all_the_same)
{
    size_t length = 0;
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR_ALPHA, black, &length);
    struct picture_check check = asked(PICTURE_JPEG);
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_UNIFORM));
    cr_assert(ne(ptr, check.bytes, NULL));
    free(check.bytes);
    png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_GRAYSCALE, nearly_one_colour, &length);
    check = asked(PICTURE_PNG);
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_UNIFORM), "4 apart is +- 2");
    free(check.bytes);
}

Test(picture, five_apart_in_one_channel_of_one_pixel_is_not_one_colour)
{
    size_t length = 0;
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, just_two_colours, &length);
    struct picture_check check = asked(PICTURE_PNG);
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_OK));
    free(check.bytes);
}

Test(picture, one_colour_is_accepted_when_told_so)
{
    size_t length = 0;
    void *png = draw(SIDE, SIDE, SPNG_COLOR_TYPE_TRUECOLOR, black, &length);
    struct picture_check check = asked(PICTURE_PNG);
    check.accept_uniform = true;
    cr_assert(eq(int, picture_check(&check, png, length), PICTURE_OK));
    free(check.bytes);
}
