#include "worker/instance/sim_picture.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <spng.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct drawn {
    uint8_t *bytes, *pixels;
    size_t length, n_pixels;
    struct spng_ihdr header;
    char software[80];
};

static struct drawn
draw(const char *prompt, uint32_t seed, uint32_t width, uint32_t height, enum sim_picture_kind kind)
{
    struct drawn d = { 0 };
    struct spng_text text;
    uint32_t n_text = 0;
    const struct sim_picture picture = { prompt, seed, width, height, kind };
    cr_assert(zero(int, sim_picture_draw(&picture, &d.bytes, &d.length)));
    spng_ctx *png = spng_ctx_new(0);
    spng_set_png_buffer(png, d.bytes, d.length);
    if (spng_get_ihdr(png, &d.header) == 0) {
        cr_assert(zero(int, spng_decoded_image_size(png, SPNG_FMT_RGB8, &d.n_pixels)));
        d.pixels = malloc(d.n_pixels);
        cr_assert(zero(int, spng_decode_image(png, d.pixels, d.n_pixels, SPNG_FMT_RGB8, 0)));
        cr_assert(zero(int, spng_get_text(png, NULL, &n_text)));
        cr_assert(eq(u32, n_text, 1));
        cr_assert(zero(int, spng_get_text(png, &text, &n_text)));
        strncpy(d.software, text.text, sizeof d.software - 1);
        cr_assert(eq(str, text.keyword, "Software"));
    }
    spng_ctx_free(png);
    return d;
}

static void
drop(struct drawn *d)
{
    free(d->bytes);
    free(d->pixels);
}

static bool
same(const struct drawn *a, const struct drawn *b)
{
    return a->length == b->length && memcmp(a->bytes, b->bytes, a->length) == 0;
}

static bool
one_colour(const struct drawn *d)
{
    for (size_t i = 3; i < d->n_pixels; i++) {
        if (d->pixels[i] != d->pixels[i % 3]) {
            return false;
        }
    }
    return true;
}

Test(sim_picture, the_same_order_gives_the_same_bytes)
{
    struct drawn a = draw("a lake", 7, 320, 256, SIM_PICTURE_GOOD);
    struct drawn b = draw("a lake", 7, 320, 256, SIM_PICTURE_GOOD);
    cr_assert(same(&a, &b));
    drop(&a);
    drop(&b);
}

Test(sim_picture, prompt_seed_and_size_each_make_a_difference)
{
    struct drawn a = draw("a lake", 7, 256, 256, SIM_PICTURE_GOOD);
    struct drawn others[] = {
        draw("a hill", 7, 256, 256, SIM_PICTURE_GOOD),
        draw("a lake", 8, 256, 256, SIM_PICTURE_GOOD),
        draw("a lake", 7, 272, 256, SIM_PICTURE_GOOD),
    };
    for (int i = 0; i < 3; i++) {
        cr_assert(zero(int, same(&a, &others[i])));
        drop(&others[i]);
    }
    drop(&a);
}

Test(sim_picture, it_has_the_size_asked_and_says_that_it_is_simulated)
{
    static const uint32_t sizes[][2] = {
        { 64, 64 }, { 64, 2048 }, { 2048, 64 }, { 1024, 768 }, { 2048, 2048 }
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct drawn d = draw("x", 4294967295, sizes[i][0], sizes[i][1], SIM_PICTURE_GOOD);
        cr_assert(eq(u32, d.header.width, sizes[i][0]));
        cr_assert(eq(u32, d.header.height, sizes[i][1]));
        cr_assert(eq(str, d.software, "drawbar-sim-instance (simulated picture)"));
        cr_assert(zero(int, one_colour(&d)));
        drop(&d);
    }
}

Test(sim_picture, any_prompt_can_be_drawn)
{
    struct drawn a = draw("", 0, 64, 64, SIM_PICTURE_GOOD);
    struct drawn b = draw("\xe5\xb1\xb1\xe6\xb0\xb4 \x01\x7f%s{}", 0, 128, 128, SIM_PICTURE_GOOD);
    cr_assert(eq(u32, b.header.width, 128));
    drop(&a);
    drop(&b);
}

Test(sim_picture, each_fault_is_one)
{
    struct drawn black = draw("a lake", 7, 128, 64, SIM_PICTURE_BLACK);
    struct drawn garbage = draw("a lake", 7, 128, 64, SIM_PICTURE_GARBAGE);
    struct drawn wrong = draw("a lake", 7, 128, 64, SIM_PICTURE_WRONG_SIZE);
    struct drawn widest = draw("a lake", 7, 2048, 64, SIM_PICTURE_WRONG_SIZE);
    cr_assert(one_colour(&black));
    cr_assert(eq(u32, black.header.width, 128));
    cr_assert(zero(ptr, garbage.pixels), "no PNG");
    cr_assert(eq(u32, wrong.header.width, 144));
    cr_assert(eq(u32, widest.header.width, 2032));
    drop(&black);
    drop(&garbage);
    drop(&wrong);
    drop(&widest);
}
