#include "common/ids.h"
#include "common/scope.h"
#include "proto/pack.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

struct leaf {
    uint16_t small;
};
static const struct field leaf_fields[] = { FIELD(struct leaf, small, FIELD_UINT, 1000) };
static const struct shape leaf_shape = SHAPE("leaf", struct leaf, leaf_fields);

struct thing {
    uint64_t big, fixed;
    bool flag;
    double real;
    struct job_id id;
    struct slice bytes, text;
    struct leaf part;
    struct list list;
};
static const struct field thing_fields[] = {
    FIELD(struct thing, big, FIELD_UINT, UINT64_MAX),
    FIELD(struct thing, fixed, FIELD_FIXED, UINT64_MAX),
    FIELD(struct thing, flag, FIELD_FLAG, 0),
    FIELD(struct thing, real, FIELD_REAL, 0),
    FIELD(struct thing, id, FIELD_ID, 0),
    FIELD(struct thing, bytes, FIELD_BYTES, 4),
    FIELD(struct thing, text, FIELD_TEXT, 8),
    FIELD_OF(struct thing, part, FIELD_PART, 0, &leaf_shape),
    FIELD_OF(struct thing, list, FIELD_LIST, 3, &leaf_shape),
};
static const struct shape thing_shape = SHAPE("thing", struct thing, thing_fields);

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

static bool
decodes(const struct shape *shape, const void *bytes, size_t length, void *out)
{
    size_t used = 0;
    return unpack_struct(unpacker, shape, (struct slice){ bytes, (uint32_t)length }, out, &used) ==
               0 &&
           used == length;
}

/* One leaf from these bytes. */
static bool
is_leaf(const char *bytes, size_t length)
{
    struct leaf leaf;
    return decodes(&leaf_shape, bytes, length, &leaf);
}
#define LEAF(text) is_leaf(text, sizeof(text) - 1)

static const struct leaf leaves[3] = { { 0 }, { 128 }, { 1000 } };

static void
pack_thing(struct buffer *out)
{
    struct thing thing = { .big = UINT64_MAX,
                           .fixed = 5,
                           .flag = true,
                           .real = -0.5,
                           .id = { { 9 } },
                           .bytes = { "\0\1\2\3", 4 },
                           .text = slice_of("B\xc3\xa4r"),
                           .part = { 7 },
                           .list = { leaves, 3 } };
    pack_struct(out, &thing_shape, &thing);
}

TestSuite(pack, .init = open_unpacker, .fini = close_unpacker);

Test(pack, a_struct_of_every_kind_survives)
{
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    CLEANUP(buffer_destroy) struct buffer again = { 0 };
    struct thing thing;
    pack_thing(&bytes);
    cr_assert(decodes(&thing_shape, bytes.bytes, bytes.length, &thing), "%s",
              unpack_error(unpacker));
    cr_assert_eq(thing.big, UINT64_MAX);
    cr_assert_eq(thing.real, -0.5);
    cr_assert_eq(((const struct leaf *)thing.list.items)[2].small, 1000);
    pack_struct(&again, &thing_shape, &thing);
    cr_assert_eq(again.length, bytes.length);
    cr_assert_eq(memcmp(again.bytes, bytes.bytes, bytes.length), 0);
}

Test(pack, a_truncated_struct_is_refused_at_every_byte)
{
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    struct thing thing;
    pack_thing(&bytes);
    for (size_t cut = 0; cut < bytes.length; cut++) {
        cr_assert_not(decodes(&thing_shape, bytes.bytes, cut, &thing), "%zu", cut);
    }
}

Test(pack, any_changed_byte_is_refused_or_gives_a_struct_that_packs)
{
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    struct thing thing;
    pack_thing(&bytes);
    for (size_t at = 0; at < bytes.length * 256; at++) {
        uint8_t kept = bytes.bytes[at / 256];
        bytes.bytes[at / 256] = (uint8_t)at;
        if (decodes(&thing_shape, bytes.bytes, bytes.length, &thing)) {
            CLEANUP(buffer_destroy) struct buffer again = { 0 };
            pack_struct(&again, &thing_shape, &thing);
        }
        bytes.bytes[at / 256] = kept;
    }
}

Test(pack, a_struct_says_how_long_it_was)
{
    struct leaf leaf;
    size_t used = 0;
    cr_assert_eq(
        unpack_struct(unpacker, &leaf_shape, (struct slice){ "\x91\x05tail", 6 }, &leaf, &used), 0);
    cr_assert_eq(used, 2);
}

Test(pack, numbers_obey_their_limit_on_both_sides)
{
    cr_assert(LEAF("\x91\x00"));
    cr_assert(LEAF("\x91\xcd\x03\xe8"), "1000");
    cr_assert_not(LEAF("\x91\xcd\x03\xe9"), "1001");
    cr_assert_not(is_leaf("\x91\xcf\0\0\0\1\0\0\0\5", 10), "2^32 + 5 is not 5");
    cr_assert_not(LEAF("\x91\xff"), "-1");
    cr_assert_not(LEAF("\x91\xd0\x05"), "a signed 5");
}

Test(pack, wrong_types_are_refused)
{
    cr_assert_not(LEAF("\x91\xc0"), "nil");
    cr_assert_not(LEAF("\x91\xc3"), "true");
    cr_assert_not(LEAF("\x91\xa1"
                       "5"));
    cr_assert_not(LEAF("\x91\x91\x05"), "an array");
    cr_assert_not(LEAF("\x81\x05\x05"), "a map");
    cr_assert_not(LEAF("\x05"), "no array");
    cr_assert_not(LEAF("\x90"), "no field");
    cr_assert_not(LEAF("\x92\x05\x05"), "a field too many");
    cr_assert_not(LEAF("\x91\xc7\x01\x05z"), "ext");
    cr_assert_not(LEAF(""));
}

Test(pack, lists_and_texts_obey_their_limit_on_both_sides)
{
    static const struct field fields[] = {
        FIELD(struct thing, text, FIELD_TEXT, 8),
        FIELD_OF(struct thing, list, FIELD_LIST, 3, &leaf_shape),
    };
    static const struct shape shape = SHAPE("two", struct thing, fields);
    struct thing thing;
    cr_assert(decodes(&shape,
                      "\x92\xa8"
                      "12345678\x93\x91\1\x91\1\x91\1",
                      17, &thing));
    cr_assert_not(decodes(&shape,
                          "\x92\xa9"
                          "123456789\x90",
                          12, &thing));
    cr_assert_str_eq(unpack_error(unpacker), "two.text: is too long");
    cr_assert_not(decodes(&shape, "\x92\xa0\x94\x91\1\x91\1\x91\1\x91\1", 11, &thing));
    cr_assert_str_eq(unpack_error(unpacker), "two.list: has too many items");
}

Test(pack, text_must_be_utf8_without_nul)
{
    static const struct {
        const char *text;
        size_t length;
        bool good;
    } rows[] = {
        { "a", 1, true },
        { "\xc3\xa4", 2, true },
        { "\xe2\x82\xac", 3, true },
        { "\xf0\x9f\x98\x80", 4, true },
        { "\xf4\x8f\xbf\xbf", 4, true },
        { "\xef\xbf\xbf", 3, true },
        { "\xed\x9f\xbf", 3, true },
        { "a\0b", 3, false },
        { "\xff", 1, false },
        { "\x80", 1, false },
        { "\xc3", 1, false },
        { "\xc0\xaf", 2, false },
        { "\xc1\xbf", 2, false },
        { "\xe0\x9f\xbf", 3, false },
        { "\xed\xa0\x80", 3, false },
        { "\xf0\x8f\xbf\xbf", 4, false },
        { "\xf4\x90\x80\x80", 4, false },
        { "\xf5\x80\x80\x80", 4, false },
        { "\xe2\x82", 2, false },
        { "\xe2(\xa1", 3, false },
    };
    size_t chars = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(utf8_valid(rows[i].text, rows[i].length, NULL), rows[i].good, "row %zu", i);
    }
    cr_assert(utf8_valid("a\xc3\xa4\xe2\x82\xac", 6, &chars));
    cr_assert_eq(chars, 3);
}

Test(pack, a_claim_of_64_million_items_reserves_nothing)
{
    cr_assert_not(is_leaf("\xdd\x04\x00\x00\x00", 5));
    cr_assert_not(is_leaf("\x91\xdd\xff\xff\xff\xff", 6));
    cr_assert_not(is_leaf("\xdc\xff\xff", 3));
    cr_assert_not(is_leaf("\x91\xc6\xff\xff\xff\xff", 6), "4 GiB of bytes");
    cr_assert_not(is_leaf("\x91\xdb\x7f\xff\xff\xff", 6), "2 GiB of text");
}

Test(pack, nesting_is_bounded)
{
    char deep[100000];
    memset(deep, '\x91', sizeof deep);
    deep[sizeof deep - 1] = 1;
    cr_assert_not(is_leaf(deep, sizeof deep));
    cr_assert_not(is_leaf(deep + sizeof deep - 40, 40));
}

Test(pack, a_real_number_must_be_finite)
{
    static const struct field fields[] = { FIELD(struct thing, real, FIELD_REAL, 0) };
    static const struct shape shape = SHAPE("real", struct thing, fields);
    static const double good[] = { 0, -1.5, 1e300 };
    static const double bad[] = { INFINITY, -INFINITY, NAN };
    struct thing thing = { 0 };
    for (size_t i = 0; i < 6; i++) {
        CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
        thing.real = i < 3 ? good[i] : bad[i - 3];
        pack_struct(&bytes, &shape, &thing);
        cr_assert_eq(decodes(&shape, bytes.bytes, bytes.length, &thing), i < 3, "%zu", i);
    }
}

Test(pack, a_fixed_number_always_takes_nine_bytes)
{
    static const struct field fields[] = { FIELD(struct thing, fixed, FIELD_FIXED, UINT64_MAX) };
    static const struct shape shape = SHAPE("fixed", struct thing, fields);
    CLEANUP(buffer_destroy) struct buffer bytes = { 0 };
    struct thing thing = { .fixed = 1 };
    pack_struct(&bytes, &shape, &thing);
    cr_assert_eq(bytes.length, 10);
    cr_assert_eq(bytes.bytes[1], 0xcf);
}

Test(pack, slices_compare_by_their_bytes)
{
    cr_assert(slice_is(slice_of("abc"), "abc"));
    cr_assert_not(slice_is(slice_of("abc"), "ab"));
    cr_assert(slice_equal((struct slice){ NULL, 0 }, slice_of("")));
}
