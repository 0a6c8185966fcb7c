#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/problem.h"
#include <stdio.h>
#include <stdlib.h>

/* The place of an event in a job's life: its SSE id is "revision.step". */
struct place {
    uint32_t revision;
    uint32_t step;
};

/* One client that listens. The exchange is held until the job was found, then it is a stream. */
struct stream {
    struct gate *gate;
    struct http_exchange *exchange;
    struct lookup *watch;
    struct timer *comment;
    struct place last; /* sent, or named by Last-Event-ID */
    uint8_t state;     /* sent last; JOB_NONE: none yet */
    bool has_last, streams;
};

static void
stream_free(void *context)
{
    struct stream *self = context;
    lookup_drop(&self->watch);
    timer_destroy(&self->comment);
    free(self);
}

/* "17.4"; anything else is as good as none. */
static void
last_event_read(struct stream *self, const char *text)
{
    char *end = NULL;
    if (text == NULL || text[0] < '0' || text[0] > '9') {
        return;
    }
    unsigned long revision = strtoul(text, &end, 10);
    if (end[0] == '.' && end[1] >= '0' && end[1] <= '9') {
        unsigned long step = strtoul(end + 1, &end, 10);
        self->last = (struct place){ (uint32_t)revision, (uint32_t)step };
        self->has_last = *end == '\0';
    }
}

static void
on_comment(void *context)
{
    static const char comment[] = ": still here\n\n";
    struct stream *self = context;
    if (!http_stream_send(self->exchange, comment, sizeof comment - 1)) {
        stream_free(self); /* too slow: closed */
    }
}

static struct place
place_of(const struct job_view *view)
{
    const struct job_entry *entry = &view->entry;
    return (struct place){ entry->header.revision, entry->step };
}

static bool
is_newer(struct place a, struct place b)
{
    return a.revision > b.revision || (a.revision == b.revision && a.step > b.step);
}

/* False: the client was too slow and is gone. */
static bool
event_send(struct stream *self, const struct job_view *view, const struct job_parts *parts)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    CLEANUP(buffer_destroy) struct buffer event = { 0 };
    const struct job_entry *entry = &view->entry;
    struct place place = place_of(view);
    char head[96];
    bool ended = job_is_terminal((enum job_state)entry->header.state);
    bool progress = self->state == JOB_RUNNING && entry->header.state == JOB_RUNNING &&
                    place.revision == self->last.revision;
    int length =
        snprintf(head, sizeof head, "id: %u.%u\nevent: %s\ndata: ", place.revision, place.step,
                 ended      ? "done"
                 : progress ? "progress"
                            : "state");
    render_job(&json, view, parts);
    buffer_add(&event, head, (size_t)length);
    buffer_add(&event, json.bytes, json.length);
    buffer_add(&event, "\n\n", 2);
    self->last = place;
    self->has_last = true;
    self->state = entry->header.state;
    return http_stream_send(self->exchange, event.bytes, event.length);
}

/* The job was found: the exchange becomes a stream. False: it is over. */
static bool
stream_begin(struct stream *self, const struct job_view *view)
{
    static const char retry[] = "retry: 2000\n\n";
    bool ended = job_is_terminal((enum job_state)view->entry.header.state);
    if (ended && self->has_last && !is_newer(place_of(view), self->last)) {
        http_respond(self->exchange, 204, NULL, NULL, 0); /* seen all: do not connect again */
        stream_free(self);
        return false;
    }
    http_stream_start(self->exchange);
    self->streams = true;
    if (!http_stream_send(self->exchange, retry, sizeof retry - 1)) {
        stream_free(self);
        return false;
    }
    timer_every_ms(self->comment, LIMIT_SSE_COMMENT_MS);
    return true;
}

static void
stream_end(struct stream *self)
{
    http_stream_end(self->exchange);
    stream_free(self);
}

static void
on_job(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    struct stream *self = context;
    struct job_parts parts;
    if (verdict == LOOKUP_FOUND && job_view_unpack(&self->gate->unpacker, view, &parts) != 0) {
        verdict = LOOKUP_BROKEN;
    }
    if (verdict != LOOKUP_FOUND) {
        if (self->streams) {
            stream_end(self); /* the record's life has ended meanwhile */
        } else {
            native_answer_missing(self->exchange, verdict);
            stream_free(self);
        }
        return;
    }
    bool first = !self->streams;
    if (first && !stream_begin(self, view)) {
        return;
    }
    if (first && self->has_last && !is_newer(place_of(view), self->last)) {
        self->state = view->entry.header.state;
        return; /* the client has this one */
    }
    if (!event_send(self, view, &parts)) {
        stream_free(self);
    } else if (job_is_terminal((enum job_state)view->entry.header.state)) {
        stream_end(self);
    }
}

void
native_events(const struct route_call *call)
{
    struct job_id id;
    if (!route_job_id(call, &id)) {
        return;
    }
    struct stream *self = calloc(1, sizeof *self);
    if (self == NULL || timer_new(&self->comment, call->gate->reactor, on_comment, self) != 0) {
        abort();
    }
    self->gate = call->gate;
    self->exchange = call->exchange;
    last_event_read(self, http_header(call->exchange, "Last-Event-ID"));
    http_on_gone(call->exchange, stream_free, self);
    const struct lookup_order order = { call->tenant, id, on_job, self };
    self->watch = lookups_watch(call->gate->jobs->lookups, &order);
}
