/* What a command makes of the bytes of an event stream. */
#include "cli/event_stream.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char seen[4096];

static void
on_event(void *context, const struct stream_event *event)
{
    size_t used = strlen(seen);
    (void)context;
    cr_assert(strlen(event->data) == event->data_length);
    snprintf(seen + used, sizeof seen - used, "[%s|%s|%s]", event->name, event->id, event->data);
}

static struct event_stream *
stream(void)
{
    struct event_stream *self = NULL;
    seen[0] = '\0';
    cr_assert(event_stream_new(&self, on_event, NULL) == 0);
    return self;
}

static void
feed(struct event_stream *self, const char *text)
{
    cr_assert(event_stream_feed(self, text, strlen(text)) == 0);
}

Test(cli_event_stream, an_event_has_a_name_an_id_and_its_data)
{
    CLEANUP(event_stream_destroy) struct event_stream *self = stream();
    feed(self, "retry: 2000\n\nid: 3.1\nevent: progress\ndata: {\"a\":1}\n\n");
    cr_assert_str_eq(seen, "[progress|3.1|{\"a\":1}]");
    cr_assert_str_eq(event_stream_last_id(self), "3.1");
}

Test(cli_event_stream, bytes_may_come_one_by_one_and_lines_may_end_in_any_way)
{
    static const char text[] =
        "event: a\r\ndata: 1\r\n\r\nevent: b\rdata:2\r\rdata: 3\ndata: 4\n\n";
    CLEANUP(event_stream_destroy) struct event_stream *self = stream();
    for (size_t i = 0; i < sizeof text - 1; i++) {
        cr_assert(event_stream_feed(self, text + i, 1) == 0);
    }
    cr_assert_str_eq(seen, "[a||1][b||2][message||3\n4]");
}

Test(cli_event_stream, comments_and_events_without_data_are_none)
{
    CLEANUP(event_stream_destroy) struct event_stream *self = stream();
    feed(self, ": still here\n\nevent: empty\n\nunknown: x\n\n");
    cr_assert_str_eq(seen, "");
}

Test(cli_event_stream, an_id_lasts_until_the_next_one_and_a_name_does_not)
{
    CLEANUP(event_stream_destroy) struct event_stream *self = stream();
    feed(self, "id: 7\nevent: state\ndata: x\n\ndata: y\n\n");
    cr_assert_str_eq(seen, "[state|7|x][message|7|y]");
}

Test(cli_event_stream, a_new_connection_drops_what_was_half_read_and_keeps_the_id)
{
    CLEANUP(event_stream_destroy) struct event_stream *self = stream();
    feed(self, "id: 7\ndata: whole\n\nid: 8\nevent: x\ndata: half");
    event_stream_restart(self);
    feed(self, "data: new\n\n");
    cr_assert_str_eq(seen, "[message|7|whole][message|8|new]");
}

Test(cli_event_stream, an_event_at_the_limit_is_read_and_one_byte_more_is_refused)
{
    CLEANUP(event_stream_destroy) struct event_stream *self = stream();
    char *big = malloc(LIMIT_STREAM_EVENT + 1);
    cr_assert(big != NULL);
    memset(big, 'x', LIMIT_STREAM_EVENT + 1);
    cr_assert(event_stream_feed(self, big, LIMIT_STREAM_EVENT) == 0);
    cr_assert(event_stream_feed(self, "x", 1) == -EMSGSIZE);
    event_stream_restart(self);
    /* Many lines of one event are bounded as well. */
    int rc = 0;
    for (int i = 0; rc == 0 && i < 4; i++) {
        rc = event_stream_feed(self, "data:", 5);
        rc = rc ? rc : event_stream_feed(self, big, LIMIT_STREAM_EVENT / 2);
        rc = rc ? rc : event_stream_feed(self, "\n", 1);
    }
    cr_assert(rc == -EMSGSIZE);
    free(big);
}
