#include "cli/follow.h"
#include "cli/event_stream.h"
#include "common/clock.h"
#include "common/scope.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POLL_WAIT_S = 5, SILENT_STREAMS = 2, STREAM_OVER = 1 };

struct follow {
    struct client *client;
    struct job *job;
    struct event_stream *stream;
    struct answer answer;
    int64_t heard_ms;  /* the server said something of use */
    int64_t pause_ms;  /* before the next try */
    uint32_t n_silent; /* streams that ended without an event */
    bool heard, polls;
};

static void
job_seen(struct follow *self, const char *json, size_t length)
{
    struct job job;
    if (job_read(&job, json, length) == 0 && strcasecmp(job.id, self->job->id) == 0) {
        *self->job = job;
        self->heard = true;
        progress_job(&self->client->progress, &job);
    }
}

static void
on_event(void *context, const struct stream_event *event)
{
    job_seen(context, event->data, event->data_length);
}

static int
on_bytes(void *context, const char *bytes, size_t length)
{
    struct follow *self = context;
    self->heard_ms = clock_mono_ms();
    int rc = event_stream_feed(self->stream, bytes, length);
    if (rc != 0) {
        return rc;
    }
    return job_has_ended(self->job) ? STREAM_OVER : 0;
}

/* One event stream, to its end. */
static int
stream_once(struct follow *self)
{
    char path[LIMIT_URL];
    char last[96];
    const char *id = event_stream_last_id(self->stream);
    int rc = client_job_path(self->client, self->job->id, "/events", path);
    if (rc != 0) {
        return rc;
    }
    (void)snprintf(last, sizeof last, "Last-Event-ID: %s", id);
    const struct question question = {
        .method = "GET",
        .path = path,
        .headers = { "Accept: text/event-stream", id[0] != '\0' ? last : NULL },
        .quiet_ms = LIMIT_STREAM_QUIET_MS,
        .on_bytes = on_bytes,
        .context = self,
    };
    event_stream_restart(self->stream);
    self->heard = false;
    rc = server_ask(self->client->server, &question, &self->answer);
    self->n_silent = self->heard ? 0 : self->n_silent + 1;
    if (rc == 0 && self->answer.status == 200 &&
        strncmp(self->answer.type, "text/event-stream", strlen("text/event-stream")) == 0) {
        self->polls = self->n_silent >= SILENT_STREAMS;
    } else if (rc == 0) {
        self->polls = true; /* 204: all was told before; anything else is told by the poll */
    }
    return rc == STREAM_OVER ? 0 : rc;
}

static int
poll_once(struct follow *self)
{
    char path[LIMIT_URL];
    char rest[16];
    (void)snprintf(rest, sizeof rest, "?wait=%d", POLL_WAIT_S);
    int rc = client_job_path(self->client, self->job->id, rest, path);
    if (rc != 0) {
        return rc;
    }
    const struct question question = { .method = "GET", .path = path, .limit_ms = LIMIT_ASK_MS };
    self->heard = false;
    rc = server_ask(self->client->server, &question, &self->answer);
    if (rc == 0 && self->answer.status == 200) {
        job_seen(self, self->answer.body, self->answer.length);
        rc = self->heard ? 0 : -ECONNRESET;
    } else if (rc == 0 && self->answer.status >= 500) {
        (void)snprintf(self->answer.trouble, sizeof self->answer.trouble, "it answered %d",
                       self->answer.status);
        rc = -ECONNRESET; /* broker or Redis are away for a moment */
    } else if (rc == 0) {
        rc = client_refused(self->client, &self->answer);
    }
    return rc;
}

/* Waits before the next try, each time longer. */
static int
pause_longer(struct follow *self)
{
    int rc = server_pause(self->client->server, self->pause_ms);
    self->pause_ms *= 2;
    if (self->pause_ms > LIMIT_ASK_AGAIN_MAX_MS) {
        self->pause_ms = LIMIT_ASK_AGAIN_MAX_MS;
    }
    return rc;
}

/* After a try: 0 to go on. */
static int
weigh(struct follow *self, int rc)
{
    char text[320];
    if (rc > 0 || rc == -EINTR || rc == -ETIME) {
        return rc;
    }
    if (self->heard) {
        self->heard_ms = clock_mono_ms();
        self->pause_ms = LIMIT_ASK_AGAIN_MS;
        progress_trouble(&self->client->progress, "");
    }
    if (rc == 0) {
        return self->heard || self->polls ? 0 : pause_longer(self);
    }
    if (clock_mono_ms() - self->heard_ms > LIMIT_SERVER_AWAY_MS) {
        return client_away(self->client, self->answer.trouble);
    }
    (void)snprintf(text, sizeof text, "the server does not answer (%s); trying again",
                   self->answer.trouble);
    progress_trouble(&self->client->progress, text);
    return pause_longer(self);
}

int
follow_job(struct client *client, struct job *job)
{
    struct follow self = {
        .client = client, .job = job, .heard_ms = clock_mono_ms(), .pause_ms = LIMIT_ASK_AGAIN_MS
    };
    if (event_stream_new(&self.stream, on_event, &self) != 0) {
        abort();
    }
    int rc = 0;
    while (rc == 0 && !job_has_ended(job)) {
        rc = self.polls ? poll_once(&self) : stream_once(&self);
        rc = weigh(&self, rc);
    }
    event_stream_destroy(&self.stream);
    answer_clear(&self.answer);
    return rc;
}
