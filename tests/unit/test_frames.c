#include "common/scope.h"
#include "proto/frames.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct unpacker *unpacker;

static void
open_unpacker(void)
{
    cr_assert_eq(unpacker_new(&unpacker), 0);
}

static void
close_unpacker(void)
{
    unpacker_destroy(&unpacker);
}

/* Fills a struct by its shape with values at their limits, or near zero. */
static void
fill(const struct shape *shape, void *out, bool large)
{
    static char text[LIMIT_JOB_BODY_BYTES];
    memset(text, 'x', sizeof text);
    for (uint32_t i = 0; i < shape->n_fields; i++) {
        const struct field *field = &shape->fields[i];
        uint8_t *at = (uint8_t *)out + field->offset;
        uint64_t number = large ? field->max : 0;
        struct slice slice = { text, large ? (uint32_t)(field->max < 300 ? field->max : 300) : 0 };
        switch (field->kind) {
        case FIELD_UINT:
        case FIELD_FIXED:
            memcpy(at, &number, field->size);
            break;
        case FIELD_FLAG:
            *(bool *)at = large;
            break;
        case FIELD_ID:
            memset(at, large ? 0xff : 0, field->size);
            break;
        case FIELD_BYTES:
        case FIELD_TEXT:
            memcpy(at, &slice, sizeof slice);
            break;
        case FIELD_PART:
            fill(field->of, at, large);
            break;
        case FIELD_LIST: {
            uint32_t count = large ? (uint32_t)field->max : 0;
            uint8_t *items = calloc(count + 1, field->of->size);
            for (uint32_t k = 0; k < count; k++) {
                fill(field->of, items + (size_t)k * field->of->size, large);
            }
            *(struct list *)(void *)at = (struct list){ items, count };
            break;
        }
        case FIELD_REAL:
        case FIELD_KIND_COUNT:
            cr_assert(false);
        }
    }
}

static void
unfill(const struct shape *shape, void *from)
{
    for (uint32_t i = 0; i < shape->n_fields; i++) {
        if (shape->fields[i].kind == FIELD_LIST) {
            const struct list *list = (void *)((uint8_t *)from + shape->fields[i].offset);
            free((void *)list->items);
        }
    }
}

static void
encode_filled(struct buffer *out, enum frame_kind kind, bool large)
{
    struct frame frame = { .kind = kind, .session = UINT64_MAX, .epoch = large };
    fill(frame_shape(kind), &frame.empty, large);
    frame_encode(out, &frame);
    unfill(frame_shape(kind), &frame.empty);
}

TestSuite(frames, .init = open_unpacker, .fini = close_unpacker);

Test(frames, every_kind_survives_empty_and_full)
{
    for (int kind = FRAME_NONE + 1; kind < FRAME_KIND_COUNT; kind++) {
        for (int large = 0; large < 2; large++) {
            CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
            CLEANUP(buffer_destroy) struct buffer again = { 0 };
            struct frame frame;
            encode_filled(&bytes, (enum frame_kind)kind, large);
            cr_assert_leq(bytes.length, LIMIT_FRAME_BYTES);
            cr_assert_eq(frame_decode(unpacker, bytes.bytes, bytes.length, &frame), 0, "%s: %s",
                         frame_kind_name((enum frame_kind)kind), unpack_error(unpacker));
            cr_assert_eq((int)frame.kind, kind);
            cr_assert_eq(frame.session, UINT64_MAX);
            frame_encode(&again, &frame);
            cr_assert_eq(again.length, bytes.length);
            cr_assert_eq(memcmp(again.bytes, bytes.bytes, bytes.length), 0);
        }
    }
}

Test(frames, every_kind_is_refused_when_it_is_cut_or_has_a_tail)
{
    for (int kind = FRAME_NONE + 1; kind < FRAME_KIND_COUNT; kind++) {
        CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
        struct frame frame;
        encode_filled(&bytes, (enum frame_kind)kind, false);
        for (size_t cut = 0; cut < bytes.length; cut++) {
            cr_assert_neq(frame_decode(unpacker, bytes.bytes, cut, &frame), 0);
        }
        buffer_add(&bytes, "\0", 1);
        cr_assert_neq(frame_decode(unpacker, bytes.bytes, bytes.length, &frame), 0, "a tail");
    }
}

Test(frames, a_field_more_or_less_is_refused)
{
    struct frame frame;
    cr_assert_eq(frame_decode(unpacker, "\x94\x02\x01\x01\xc2", 5, &frame), 0, "a PING");
    cr_assert_eq(frame.kind, FRAME_PING);
    cr_assert_neq(frame_decode(unpacker, "\x93\x02\x01\x01", 4, &frame), 0);
    cr_assert_neq(frame_decode(unpacker, "\x95\x02\x01\x01\xc2\xc2", 6, &frame), 0);
    cr_assert_neq(frame_decode(unpacker, "\x94\x02\x01\x01\x00", 5, &frame), 0, "a number");
    cr_assert_neq(frame_decode(unpacker, "\x94\x02\xa1z\x01\xc2", 6, &frame), 0, "session a text");
}

Test(frames, unknown_kinds_are_refused)
{
    struct frame frame;
    cr_assert_neq(frame_decode(unpacker, "\x94\x00\x01\x01\xc2", 5, &frame), 0);
    cr_assert_neq(frame_decode(unpacker, "\x94\x23\x01\x01\x00", 5, &frame), 0, "35");
    cr_assert_eq(frame_decode(unpacker, "\x94\x21\x01\x01\x00", 5, &frame), 0, "33 is NO_SESSION");
    cr_assert_neq(
        frame_decode(unpacker, "\x94\xcf\xff\xff\xff\xff\xff\xff\xff\xff\1\1\0", 13, &frame), 0);
    cr_assert_neq(frame_decode(unpacker, "\x90", 1, &frame), 0);
    cr_assert_neq(frame_decode(unpacker, "", 0, &frame), 0);
}

Test(frames, a_frame_over_a_mebibyte_is_refused)
{
    struct frame frame;
    uint8_t *bytes = calloc(1, LIMIT_FRAME_BYTES + 1);
    cr_assert_neq(frame_decode(unpacker, bytes, LIMIT_FRAME_BYTES + 1, &frame), 0);
    free(bytes);
}

Test(frames, a_claim_of_64_million_leases_reserves_nothing)
{
    struct frame frame;
    cr_assert_neq(
        frame_decode(unpacker, "\x96\x13\x01\x01\x00\x00\xdd\x04\x00\x00\x00", 11, &frame), 0);
    cr_assert_neq(frame_decode(unpacker, "\xdd\x04\x00\x00\x00", 5, &frame), 0);
}

Test(frames, random_bytes_never_decode_to_what_does_not_encode)
{
    unsigned seed = 1;
    for (uint32_t round = 0; round < 20000; round++) {
        CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
        struct frame frame;
        enum frame_kind kind = (enum frame_kind)(1 + rand_r(&seed) % (FRAME_KIND_COUNT - 1));
        encode_filled(&bytes, kind, kind != FRAME_JOBS && rand_r(&seed) % 8 == 0);
        for (int flips = 1 + rand_r(&seed) % 3; flips > 0; flips--) {
            bytes.bytes[rand_r(&seed) % bytes.length] = (uint8_t)rand_r(&seed);
        }
        if (frame_decode(unpacker, bytes.bytes, bytes.length, &frame) == 0) {
            CLEANUP(buffer_destroy) struct buffer again = { 0 };
            frame_encode(&again, &frame);
        }
    }
}

Test(frames, kinds_and_refusals_have_names)
{
    for (int kind = 0; kind < FRAME_KIND_COUNT; kind++) {
        cr_assert_gt(strlen(frame_kind_name((enum frame_kind)kind)), 0);
    }
    for (int i = 1; i < REFUSAL_COUNT; i++) {
        cr_assert_gt(strlen(refusal_name((enum refusal)i)), 0);
    }
}
