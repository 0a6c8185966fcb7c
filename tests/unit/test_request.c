#include "common/scope.h"
#include "gateway/request.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct field_errors errors;

/* Reads `text`, frees what came of it and tells the verdict; mistakes are in `errors`. */
static enum request_verdict
verdict_of(const char *text)
{
    CLEANUP(request_destroy) struct request request = { 0 };
    return request_parse(&request, &errors, slice_of(text), 7);
}

/* The verdict on a request with a good prompt and one more member. */
static enum request_verdict
verdict_with(const char *member)
{
    char text[8192];
    (void)snprintf(text, sizeof text, "{\"prompt\":\"a fox\",%s}", member);
    return verdict_of(text);
}

static bool
names(const char *field)
{
    for (uint32_t i = 0; i < errors.count; i++) {
        if (strcmp(errors.items[i].field, field) == 0 && errors.items[i].message[0] != '\0') {
            return true;
        }
    }
    return false;
}

static void
expect_invalid(const char *member, const char *field)
{
    cr_expect(eq(int, verdict_with(member), REQUEST_INVALID), "%s", member);
    cr_expect(names(field) && errors.count == 1, "%s: %s %s", member, errors.items[0].field,
              errors.items[0].message);
}

Test(request, what_is_left_out_gets_its_default)
{
    CLEANUP(request_destroy) struct request r = { 0 };
    cr_assert(
        eq(int, request_parse(&r, &errors, slice_of("{\"prompt\":\"a\"}"), 4711), REQUEST_OK));
    cr_expect(slice_equal(r.envelope.model, slice_of("z-image-turbo")));
    cr_expect(r.envelope.width == 1024 && r.envelope.height == 1024 && r.envelope.steps == 8);
    cr_expect(r.envelope.n == 1 && r.envelope.class_ == CLASS_NORMAL);
    cr_expect(r.envelope.expires_in_s == 3600);
    cr_expect(r.body.guidance == 0.0 && r.body.format == PICTURE_PNG);
    cr_expect(eq(u32, r.body.seed, 4711), "the random seed is told by the caller");
}

Test(request, every_field_is_read)
{
    CLEANUP(request_destroy) struct request r = { 0 };
    const char *text =
        "{\"prompt\":\"p\",\"negative_prompt\":\"n\",\"model\":\"a/B.c-d_1\",\"width\":64,"
        "\"height\":2048,\"steps\":50,\"guidance\":1.5,\"seed\":4294967295,\"n\":8,"
        "\"format\":\"webp\",\"quality\":100,\"priority\":\"low\",\"expires_in_s\":86400,"
        "\"metadata\":{\"k\":\"v\"}}";
    cr_assert(eq(int, request_parse(&r, &errors, slice_of(text), 1), REQUEST_OK));
    cr_expect(slice_equal(r.body.prompt, slice_of("p")));
    cr_expect(slice_equal(r.body.negative_prompt, slice_of("n")));
    cr_expect(slice_equal(r.envelope.model, slice_of("a/B.c-d_1")));
    cr_expect(r.envelope.width == 64 && r.envelope.height == 2048 && r.envelope.steps == 50);
    cr_expect(r.body.guidance == 1.5 && r.body.seed == UINT32_MAX && r.envelope.n == 8);
    cr_expect(r.body.format == PICTURE_WEBP && r.body.quality == 100);
    cr_expect(r.envelope.class_ == CLASS_LOW && r.envelope.expires_in_s == 86400);
    cr_expect(slice_equal(r.body.metadata, slice_of("{\"k\":\"v\"}")));
}

Test(request, what_is_packed_is_what_was_asked)
{
    CLEANUP(request_destroy) struct request r = { 0 };
    CLEANUP(buffer_destroy) struct buffer packed = { 0 };
    struct record_unpacker unpacker;
    struct envelope envelope;
    struct job_body body;
    cr_assert(zero(int, record_unpacker_new(&unpacker)));
    cr_assert(
        eq(int, request_parse(&r, &errors, slice_of("{\"prompt\":\"\\u00e9\"}"), 9), REQUEST_OK));
    r.envelope.tenant = slice_of("default");
    request_pack(&packed, &r);
    struct slice bytes = { packed.bytes, (uint32_t)packed.length };
    cr_assert(zero(int, job_request_decode(&unpacker, bytes, &envelope, &body)));
    cr_expect(slice_equal(body.prompt, slice_of("\xc3\xa9")) && body.seed == 9);
    cr_expect(slice_equal(envelope.tenant, slice_of("default")) && envelope.width == 1024);
    record_unpacker_destroy(&unpacker);
}

Test(request, what_is_not_json_is_malformed)
{
    static const char *const bad[] = {
        "",
        "{",
        "nonsense",
        "{\"prompt\":\"a\"} x",
        "{\"prompt\":\"a\",\"prompt\":\"b\"}",
        "{\"prompt\":\"\xff\"}",
        "{\"prompt\":\"\xed\xa0\x80\"}",
        "{\"prompt\":\"\\ud800\"}",
        "{\"prompt\":\"a\",\"guidance\":1e999}",
        "{\"prompt\":\"a\",\"seed\":01}",
        "{\"prompt\":\"a\",\"metadata\":{\"k\":\"1\",\"k\":\"2\"}}",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        cr_expect(eq(int, verdict_of(bad[i]), REQUEST_MALFORMED), "%s", bad[i]);
        cr_expect(errors.count == 1 && errors.items[0].message[0] != '\0');
    }
}

Test(request, a_bomb_of_brackets_is_refused_before_it_is_parsed)
{
    char eight[] = "[[[[[[[[1]]]]]]]]";
    char nine[] = "[[[[[[[[[1]]]]]]]]]";
    cr_expect(eq(int, verdict_of(eight), REQUEST_INVALID), "eight levels are JSON, but no request");
    cr_expect(eq(int, verdict_of(nine), REQUEST_MALFORMED));
    cr_expect(eq(int, verdict_of("{\"prompt\":\"[[[[[[[[[[[[[[[[[[ \\\" {{{{\"}"), REQUEST_OK),
              "brackets in a string are no levels");
}

Test(request, json_that_is_no_object_is_invalid)
{
    static const char *const bad[] = { "[]", "7", "\"a\"", "null", "true" };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        cr_expect(eq(int, verdict_of(bad[i]), REQUEST_INVALID), "%s", bad[i]);
    }
}

Test(request, numbers_are_checked_on_both_sides_of_their_limits)
{
    static const struct {
        const char *field;
        long low, high, step;
    } limits[] = {
        { "width", 64, 2048, 16 },        { "height", 64, 2048, 16 }, { "steps", 1, 50, 1 },
        { "seed", 0, 4294967295, 1 },     { "n", 1, 8, 1 },           { "quality", 1, 100, 1 },
        { "expires_in_s", 10, 86400, 1 }, { "guidance", 0, 30, 1 },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        char member[64];
        const char *field = limits[i].field;
        (void)snprintf(member, sizeof member, "\"%s\":%ld", field, limits[i].low);
        cr_expect(eq(int, verdict_with(member), REQUEST_OK), "%s", member);
        (void)snprintf(member, sizeof member, "\"%s\":%ld", field, limits[i].high);
        cr_expect(eq(int, verdict_with(member), REQUEST_OK), "%s", member);
        (void)snprintf(member, sizeof member, "\"%s\":%ld", field, limits[i].low - limits[i].step);
        expect_invalid(member, field);
        (void)snprintf(member, sizeof member, "\"%s\":%ld", field, limits[i].high + limits[i].step);
        expect_invalid(member, field);
        (void)snprintf(member, sizeof member, "\"%s\":\"%ld\"", field, limits[i].low);
        expect_invalid(member, field);
    }
    expect_invalid("\"width\":72", "width");
    expect_invalid("\"steps\":8.0", "steps");
    expect_invalid("\"n\":true", "n");
}

Test(request, a_number_past_64_bits_names_its_field_and_spares_the_others)
{
    expect_invalid("\"steps\":4,\"width\":9223372036854775808", "width");
    expect_invalid("\"steps\":4,\"seed\":-99999999999999999999", "seed");
}

Test(request, wrong_types_and_unknown_fields_name_the_field)
{
    expect_invalid("\"negative_prompt\":1", "negative_prompt");
    expect_invalid("\"format\":\"bmp\"", "format");
    expect_invalid("\"format\":\"png\\u0000\"", "format");
    expect_invalid("\"priority\":1", "priority");
    expect_invalid("\"model\":\"\"", "model");
    expect_invalid("\"model\":\"a b\"", "model");
    expect_invalid("\"model\":\"a\\u0000\"", "model");
    expect_invalid("\"metadata\":[]", "metadata");
    expect_invalid("\"metadata\":{\"k\":1}", "metadata");
    expect_invalid("\"metadata\":{\"k\":\"\\u0000\"}", "metadata");
    expect_invalid("\"colour\":\"red\"", "colour");
    cr_expect(eq(int, verdict_of("{\"prompt\":\"a\\u0000b\"}"), REQUEST_INVALID));
    cr_expect(names("prompt"));
    cr_expect(eq(int, verdict_of("{}"), REQUEST_INVALID));
    cr_expect(names("prompt"));
}

Test(request, all_mistakes_are_told_at_once_but_no_more_than_the_limit)
{
    cr_expect(eq(int, verdict_of("{\"prompt\":\"\",\"width\":1,\"steps\":99}"), REQUEST_INVALID));
    cr_expect(errors.count == 3 && names("prompt") && names("width") && names("steps"));
    char text[2048] = "{\"prompt\":\"a\"";
    for (int i = 0; i < 40; i++) {
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), ",\"x%d\":1", i);
    }
    (void)snprintf(text + strlen(text), sizeof text - strlen(text), "}");
    cr_expect(eq(int, verdict_of(text), REQUEST_INVALID));
    cr_expect(eq(u32, errors.count, LIMIT_FIELD_ERRORS));
}

Test(request, a_prompt_is_counted_in_characters)
{
    size_t room = (size_t)LIMIT_PROMPT_BYTES + 64;
    char *text = calloc(1, room);
    for (int chars = LIMIT_PROMPT_CHARS; chars <= LIMIT_PROMPT_CHARS + 1; chars++) {
        size_t used = (size_t)snprintf(text, room, "{\"prompt\":\"");
        for (int i = 0; i < chars; i++) {
            used += (size_t)snprintf(text + used, room - used, "\xf0\x9f\xa6\x8a");
        }
        (void)snprintf(text + used, room - used, "\"}");
        cr_expect(
            eq(int, verdict_of(text), chars == LIMIT_PROMPT_CHARS ? REQUEST_OK : REQUEST_INVALID));
    }
    free(text);
}

Test(request, metadata_is_bounded_in_strings_and_bytes)
{
    char member[4096] = "\"metadata\":{";
    for (int i = 0; i < 17; i++) {
        if (i == 16) {
            char sixteen[4096];
            (void)snprintf(sixteen, sizeof sixteen, "%s}", member);
            cr_expect(eq(int, verdict_with(sixteen), REQUEST_OK));
        }
        (void)snprintf(member + strlen(member), sizeof member - strlen(member), "%s\"k%d\":\"v\"",
                       i > 0 ? "," : "", i);
    }
    (void)snprintf(member + strlen(member), sizeof member - strlen(member), "}");
    expect_invalid(member, "metadata");
    for (int bytes = LIMIT_METADATA_BYTES; bytes <= LIMIT_METADATA_BYTES + 1; bytes++) {
        (void)snprintf(member, sizeof member, "\"metadata\":{\"k\":\"%0*d\"}", bytes - 1, 0);
        cr_expect(eq(int, verdict_with(member),
                     bytes == LIMIT_METADATA_BYTES ? REQUEST_OK : REQUEST_INVALID));
    }
}

Test(request, a_long_field_name_is_cut_between_characters)
{
    struct field_errors list = { 0 };
    char name[64];
    memset(name, 'a', sizeof name);
    memcpy(name + 46, "\xc3\xa9", 2);
    field_errors_add(&list, (struct slice){ name, sizeof name }, "x");
    cr_expect(eq(sz, strlen(list.items[0].field), 46));
}
