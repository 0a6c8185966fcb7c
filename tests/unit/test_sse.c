#include "common/limits.h"
#include "worker/drivers/sse.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

Test(sse, events_are_cut_whatever_the_pieces)
{
    static const char stream[] = ": hello\n\nevent: x\ndata: one\nid: 3\n\ndata:two\r\ndata: "
                                 "three\r\n\r\n\n\ndata\n\ndata: four\n\n";
    for (size_t piece = 1; piece < sizeof stream; piece++) {
        struct sse sse = { 0 };
        char got[64] = "";
        for (size_t at = 0; at < sizeof stream - 1; at += piece) {
            size_t left = sizeof stream - 1 - at;
            const char *data = NULL;
            size_t length = 0;
            cr_assert(sse_push(&sse, stream + at, left < piece ? left : piece));
            while (sse_next(&sse, &data, &length)) {
                cr_assert(eq(sz, strlen(data), length));
                size_t used = strlen(got);
                snprintf(got + used, sizeof got - used, "%s|", data);
            }
        }
        cr_assert(eq(str, got, (char *)"one|two\nthree|four|"), "pieces of %zu", piece);
        sse_clear(&sse);
    }
}

Test(sse, an_event_without_an_end_is_refused_at_the_limit)
{
    struct sse sse = { 0 };
    char block[4096];
    size_t total = 0;
    memset(block, 'x', sizeof block);
    while (sse_push(&sse, block, sizeof block)) {
        const char *data = NULL;
        size_t length = 0;
        cr_assert(not(sse_next(&sse, &data, &length)));
        total += sizeof block;
        cr_assert(le(sz, total, LIMIT_STREAM_EVENT));
    }
    sse_clear(&sse);
}
