#include "worker/instance/sim_picture.h"
#include "common/limits.h"
#include "common/scope.h"
#include "worker/instance/sim_font.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <spng.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RIDGES = 5, CHANNELS = 3, MARGIN_PER_MILLE = 25 };

struct colour {
    float r, g, b;
};

struct palette {
    struct colour zenith, horizon, sun, far, near;
    bool stars;
};

/* A scene: everything that the pixels follow from. Lengths are in pixels. */
struct scene {
    uint32_t width, height, shore; /* the water begins at row `shore` */
    uint64_t hash;
    const struct palette *palette;
    float sun_x, sun_y, sun_radius;
    float *ridge[RIDGES]; /* per column: the row where the ridge begins; 0 is the farthest */
    float *ground;        /* the nearest ridge before trees stood on it */
    float ridge_top[RIDGES];
    uint8_t *pixels;
};

static const struct palette palettes[] = {
    /* dawn */ { { 62, 84, 140 },
                 { 250, 190, 150 },
                 { 255, 240, 205 },
                 { 176, 150, 170 },
                 { 40, 38, 66 },
                 false },
    /* day */
    { { 52, 126, 196 },
      { 200, 228, 240 },
      { 255, 253, 240 },
      { 150, 186, 208 },
      { 26, 66, 72 },
      false },
    /* dusk */
    { { 44, 30, 84 },
      { 242, 120, 96 },
      { 255, 214, 140 },
      { 150, 84, 122 },
      { 28, 16, 44 },
      false },
    /* night */
    { { 8, 12, 36 }, { 58, 84, 130 }, { 236, 240, 250 }, { 54, 76, 116 }, { 6, 10, 24 }, true },
    /* ember */
    { { 92, 22, 40 }, { 252, 160, 70 }, { 255, 236, 160 }, { 190, 90, 70 }, { 44, 10, 24 }, false },
    /* moss */
    { { 66, 128, 130 },
      { 236, 232, 190 },
      { 255, 250, 220 },
      { 150, 180, 150 },
      { 22, 54, 40 },
      false },
    /* aurora */
    { { 10, 20, 52 }, { 40, 148, 140 }, { 222, 255, 240 }, { 40, 104, 116 }, { 6, 20, 34 }, true },
    /* orchid */
    { { 108, 92, 176 },
      { 250, 206, 220 },
      { 255, 246, 238 },
      { 176, 146, 196 },
      { 50, 34, 82 },
      false },
};

/* -- numbers from a hash -- */

static uint64_t
mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

static uint64_t
hash_of(const char *prompt, uint32_t seed)
{
    uint64_t hash = 0xcbf29ce484222325U;
    for (const char *c = prompt; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3U;
    }
    return mix(hash ^ mix(seed));
}

/* A number from 0 to 1 that belongs to `what` in this scene. */
static float
chance(uint64_t hash, uint64_t what)
{
    return (float)(mix(hash ^ mix(what)) >> 40) / (float)(1U << 24);
}

static float
blend(float from, float to, float share)
{
    return from + (to - from) * share;
}

/* Smooth noise from 0 to 1 with one random value at each whole x. */
static float
noise(uint64_t hash, float x)
{
    float whole = floorf(x);
    float t = x - whole;
    uint64_t i = (uint64_t)(int64_t)whole;
    return blend(chance(hash, i), chance(hash, i + 1), t * t * (3 - 2 * t));
}

static float
rugged(uint64_t hash, float x)
{
    float sum = 0;
    float weight = 0.5F;
    for (uint64_t octave = 0; octave < 6; octave++) {
        sum += weight * noise(mix(hash + octave), x);
        weight *= 0.5F;
        x *= 2.1F;
    }
    return sum;
}

/* -- painting -- */

static struct colour
blend_colour(struct colour from, struct colour to, float share)
{
    return (struct colour){ blend(from.r, to.r, share), blend(from.g, to.g, share),
                            blend(from.b, to.b, share) };
}

static void
put(uint8_t *pixel, struct colour colour)
{
    pixel[0] = (uint8_t)(colour.r + 0.5F);
    pixel[1] = (uint8_t)(colour.g + 0.5F);
    pixel[2] = (uint8_t)(colour.b + 0.5F);
}

static void
tint(uint8_t *pixel, struct colour colour, float share)
{
    struct colour old = { pixel[0], pixel[1], pixel[2] };
    put(pixel, blend_colour(old, colour, share));
}

static uint8_t *
row_of(const struct scene *scene, uint32_t y)
{
    return scene->pixels + (size_t)y * scene->width * CHANNELS;
}

static void
paint_sky(const struct scene *scene, uint32_t y)
{
    uint8_t *row = row_of(scene, y);
    const struct palette *palette = scene->palette;
    float down = (float)y / (float)scene->shore;
    struct colour base = blend_colour(palette->zenith, palette->horizon, down * down * (2 - down));
    float dy = (float)y - scene->sun_y;
    float halo = 14 * scene->sun_radius * scene->sun_radius;
    for (uint32_t x = 0; x < scene->width; x++) {
        float dx = (float)x - scene->sun_x;
        float square = dx * dx + dy * dy;
        float glow = 0.62F * halo / (halo + square);
        float edge = 0;
        if (square < (scene->sun_radius + 1) * (scene->sun_radius + 1)) {
            edge = scene->sun_radius + 0.5F - sqrtf(square);
            edge = edge < 0 ? 0 : edge > 1 ? 1 : edge;
        }
        glow = glow > edge ? glow : edge;
        put(row + (size_t)x * CHANNELS, blend_colour(base, palette->sun, glow));
    }
}

static void
paint_stars(const struct scene *scene)
{
    uint32_t n_stars = scene->width * scene->shore / 2400;
    struct colour white = { 255, 255, 255 };
    for (uint32_t i = 0; i < n_stars; i++) {
        uint32_t x = (uint32_t)(chance(scene->hash, 1000 + 3 * i) * (float)(scene->width - 1));
        float up = chance(scene->hash, 1001 + 3 * i);
        uint32_t y = (uint32_t)(up * up * 0.8F * (float)scene->shore);
        tint(row_of(scene, y) + (size_t)x * CHANNELS, white,
             0.85F * chance(scene->hash, 1002 + 3 * i));
    }
}

/* The ridges over one row of sky, from the farthest to the nearest; each fades into mist below. */
static void
paint_ridges(const struct scene *scene, uint32_t y)
{
    uint8_t *row = row_of(scene, y);
    for (int k = 0; k < RIDGES; k++) {
        if ((float)y + 1 <= scene->ridge_top[k]) {
            continue;
        }
        float near = (float)k / (RIDGES - 1);
        struct colour body = blend_colour(scene->palette->far, scene->palette->near, near);
        float depth =
            ((float)y - scene->ridge_top[k]) / ((float)scene->shore - scene->ridge_top[k]);
        struct colour shade = blend_colour(body, scene->palette->horizon,
                                           0.42F * (1 - near) * (depth > 0 ? depth : 0));
        uint8_t solid[CHANNELS];
        put(solid, shade);
        const float *ridge = scene->ridge[k];
        for (uint32_t x = 0; x < scene->width; x++) {
            float cover = (float)y + 1 - ridge[x];
            uint8_t *pixel = row + (size_t)x * CHANNELS;
            if (cover >= 1) {
                pixel[0] = solid[0];
                pixel[1] = solid[1];
                pixel[2] = solid[2];
            } else if (cover > 0) {
                tint(pixel, shade, cover);
            }
        }
    }
}

/* The water mirrors what stands above it, each row shifted by a ripple and darker with depth. */
static void
paint_water(const struct scene *scene, uint32_t y)
{
    float below = (float)(y - scene->shore);
    float depth = below / (float)(scene->height - scene->shore);
    float unit = (float)scene->height / 512;
    float mirrored = (float)scene->shore - 1 - below * 1.25F;
    uint32_t from = mirrored < 0 ? 0 : (uint32_t)mirrored;
    float wave = noise(scene->hash + 7, below / (unit * (1.5F + 3 * depth))) - 0.5F;
    int shift = (int)(wave * unit * (3 + 22 * depth));
    const uint8_t *source = row_of(scene, from);
    uint8_t *row = row_of(scene, y);
    int last = (int)scene->width - 1;
    struct colour deep = blend_colour(scene->palette->zenith, scene->palette->near, 0.55F);
    uint32_t keep = (uint32_t)((0.86F - 0.4F * depth + 0.12F * wave) * 256);
    uint8_t tinted[CHANNELS];
    put(tinted, deep);
    for (int x = 0; x <= last; x++) {
        int at = x + shift < 0 ? 0 : x + shift > last ? last : x + shift;
        for (int c = 0; c < CHANNELS; c++) {
            uint32_t value = source[at * CHANNELS + c] * keep + tinted[c] * (256 - keep);
            row[x * CHANNELS + c] = (uint8_t)(value >> 8);
        }
    }
}

/* -- the scene -- */

static void
raise_ridges(struct scene *scene)
{
    float shore = (float)scene->shore;
    for (int k = 0; k < RIDGES; k++) {
        float near = (float)k / (RIDGES - 1);
        uint64_t hash = mix(scene->hash + 100 + (uint64_t)k);
        float base = shore * blend(0.62F, 1.02F, near);
        float tall = shore * blend(0.56F, 0.20F, near) * blend(0.7F, 1.1F, chance(hash, 1));
        float stretch = blend(2.6F, 5.5F, near) /
                        (float)(scene->width > scene->height ? scene->height : scene->width);
        scene->ridge_top[k] = shore;
        for (uint32_t x = 0; x < scene->width; x++) {
            float top = base - tall * (rugged(hash, (float)x * stretch) - 0.25F);
            top = top > shore ? shore : top;
            scene->ridge[k][x] = top;
            scene->ridge_top[k] = top < scene->ridge_top[k] ? top : scene->ridge_top[k];
        }
    }
}

/* Spruces along the nearest ridge: each a row of narrow triangles, cut into the ridge's line. */
static void
plant_trees(struct scene *scene)
{
    float unit = (float)(scene->height < scene->width ? scene->height : scene->width) / 512;
    float *ridge = scene->ridge[RIDGES - 1];
    memcpy(scene->ground, ridge, scene->width * sizeof *ridge);
    uint32_t n_trees = 40 + (uint32_t)(60 * chance(scene->hash, 50));
    for (uint32_t i = 0; i < n_trees; i++) {
        /* They stand in groves: the place is drawn twice and the sum is uneven. */
        float grove = chance(scene->hash, 60 + i % 5);
        float place = grove + 0.22F * (chance(scene->hash, 200 + 2 * i) - 0.5F);
        float tall = unit * blend(18, 58, chance(scene->hash, 201 + 2 * i));
        int middle = (int)(place * (float)scene->width);
        if (middle < 0 || middle >= (int)scene->width) {
            continue;
        }
        float foot = scene->ground[middle];
        int reach = (int)(tall * 0.2F) + 1;
        for (int x = middle - reach; x <= middle + reach; x++) {
            if (x < 0 || x >= (int)scene->width) {
                continue;
            }
            float aside = fabsf((float)(x - middle)) / ((float)reach + 0.5F);
            float step = aside * 4 - floorf(aside * 4); /* four tiers of branches */
            float top = foot + unit * 2 - tall * (1 - aside) + tall * 0.17F * step;
            ridge[x] = top < ridge[x] ? top : ridge[x];
        }
        float peak = foot - tall;
        scene->ridge_top[RIDGES - 1] =
            peak < scene->ridge_top[RIDGES - 1] ? peak : scene->ridge_top[RIDGES - 1];
    }
}

static void
scene_compose(struct scene *scene)
{
    uint64_t hash = scene->hash;
    float side = (float)(scene->height < scene->width ? scene->height : scene->width);
    scene->palette = &palettes[(hash >> 20) % ARRAY_LENGTH(palettes)];
    scene->shore = (uint32_t)((float)scene->height * blend(0.64F, 0.74F, chance(hash, 1)));
    scene->sun_x = (float)scene->width * blend(0.18F, 0.82F, chance(hash, 2));
    scene->sun_y = (float)scene->shore * blend(0.18F, 0.56F, chance(hash, 3));
    scene->sun_radius = side * blend(0.035F, 0.085F, chance(hash, 4));
    raise_ridges(scene);
    plant_trees(scene);
    for (uint32_t y = 0; y < scene->shore; y++) {
        paint_sky(scene, y);
    }
    if (scene->palette->stars) {
        paint_stars(scene);
    }
    for (uint32_t y = 0; y < scene->shore; y++) {
        paint_ridges(scene, y);
    }
    for (uint32_t y = scene->shore; y < scene->height; y++) {
        paint_water(scene, y);
    }
}

/* -- the letters -- */

/* Writes what fits of `text`, with its top left corner at (left, top). */
static void
write_text(const struct scene *scene, uint32_t left, uint32_t top, uint32_t scale, const char *text)
{
    struct colour ink = { 255, 255, 255 };
    for (const char *c = text; *c != '\0'; c++, left += FONT_ADVANCE * scale) {
        const uint8_t *glyph = font_glyph(*c);
        if (left + FONT_WIDTH * scale > scene->width || top + FONT_HEIGHT * scale > scene->height) {
            return;
        }
        for (uint32_t y = 0; y < FONT_HEIGHT * scale; y++) {
            uint8_t *row = row_of(scene, top + y) + (size_t)left * CHANNELS;
            for (uint32_t x = 0; x < FONT_WIDTH * scale; x++) {
                if ((glyph[y / scale] >> (FONT_WIDTH - 1 - x / scale) & 1) != 0) {
                    tint(row + (size_t)x * CHANNELS, ink, 0.94F);
                }
            }
        }
    }
}

/* A dark band at the foot: what this is, and what it was asked for. */
static void
write_label(const struct scene *scene, const struct sim_picture *picture)
{
    uint32_t side = scene->width < scene->height ? scene->width : scene->height;
    uint32_t scale = side / 220 + 1;
    uint32_t small = (scale + 1) / 2;
    uint32_t left = side * MARGIN_PER_MILLE / 1000 + 1;
    uint32_t band = FONT_HEIGHT * (scale + 2 * small) + 5 * small + 2 * scale;
    struct colour dark = { 8, 8, 14 };
    char facts[64];
    (void)snprintf(facts, sizeof facts, "%u*%u seed %u", picture->width, picture->height,
                   picture->seed);
    if (scene->width < 128) { /* no room for more: the seed alone */
        (void)snprintf(facts, sizeof facts, "%u", picture->seed);
    }
    for (uint32_t y = scene->height - band; y < scene->height; y++) {
        uint8_t *row = row_of(scene, y);
        for (uint32_t x = 0; x < scene->width; x++) {
            tint(row + (size_t)x * CHANNELS, dark, 0.62F);
        }
    }
    uint32_t top = scene->height - band + scale;
    write_text(scene, left, top, scale, "SIMULATED");
    top += FONT_HEIGHT * scale + 2 * small;
    write_text(scene, left, top, small, facts);
    write_text(scene, left, top + (FONT_HEIGHT + 2) * small, small, picture->prompt);
}

/* -- the file -- */

static int
encode(const struct scene *scene, uint8_t **bytes, size_t *length)
{
    struct spng_ihdr header = { .width = scene->width,
                                .height = scene->height,
                                .bit_depth = 8,
                                .color_type = SPNG_COLOR_TYPE_TRUECOLOR };
    char software[] = "drawbar-sim-instance (simulated picture)";
    struct spng_text text = {
        .keyword = "Software", .type = SPNG_TEXT, .text = software, .length = sizeof software - 1
    };
    size_t raw = (size_t)scene->width * scene->height * CHANNELS;
    spng_ctx *png = spng_ctx_new(SPNG_CTX_ENCODER);
    if (png == NULL) {
        return -ENOMEM;
    }
    /* The cheapest that still shrinks it: neighbours in a row differ little. */
    int rc = spng_set_option(png, SPNG_ENCODE_TO_BUFFER, 1);
    rc = rc ? rc : spng_set_option(png, SPNG_IMG_COMPRESSION_LEVEL, 1);
    rc = rc ? rc : spng_set_option(png, SPNG_FILTER_CHOICE, SPNG_FILTER_CHOICE_UP);
    rc = rc ? rc : spng_set_ihdr(png, &header);
    rc = rc ? rc : spng_set_text(png, &text, 1);
    rc = rc ? rc : spng_encode_image(png, scene->pixels, raw, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    if (rc == 0) {
        *bytes = spng_get_png_buffer(png, length, &rc);
    }
    spng_ctx_free(png);
    return rc == 0 ? 0 : -EIO;
}

static int
draw_garbage(uint64_t hash, uint8_t **bytes, size_t *length)
{
    *length = 4096;
    *bytes = malloc(*length);
    if (*bytes == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < *length; i++) {
        hash = mix(hash);
        (*bytes)[i] = (uint8_t)hash;
    }
    (*bytes)[0] = 'X'; /* never a PNG's first byte */
    return 0;
}

int
sim_picture_draw(const struct sim_picture *picture, uint8_t **bytes, size_t *length)
{
    assert(picture->width >= LIMIT_SIDE_MIN && picture->width <= LIMIT_SIDE_MAX);
    assert(picture->height >= LIMIT_SIDE_MIN && picture->height <= LIMIT_SIDE_MAX);
    struct scene scene = { .width = picture->width,
                           .height = picture->height,
                           .hash = hash_of(picture->prompt, picture->seed) };
    if (picture->kind == SIM_PICTURE_GARBAGE) {
        return draw_garbage(scene.hash, bytes, length);
    }
    if (picture->kind == SIM_PICTURE_WRONG_SIZE) {
        scene.width = scene.width == LIMIT_SIDE_MAX ? scene.width - 16 : scene.width + 16;
    }
    /* One block: the ridges, the ground, the pixels. */
    size_t columns = (size_t)(RIDGES + 1) * scene.width;
    float *memory =
        calloc(1, columns * sizeof(float) + (size_t)scene.width * scene.height * CHANNELS);
    if (memory == NULL) {
        return -ENOMEM;
    }
    for (int k = 0; k < RIDGES; k++) {
        scene.ridge[k] = memory + (size_t)k * scene.width;
    }
    scene.ground = memory + (size_t)RIDGES * scene.width;
    scene.pixels = (uint8_t *)(memory + columns);
    if (picture->kind != SIM_PICTURE_BLACK) {
        scene_compose(&scene);
        write_label(&scene, picture);
    }
    int rc = encode(&scene, bytes, length);
    free(memory);
    return rc;
}
