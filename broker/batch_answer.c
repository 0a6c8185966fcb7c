#include "broker/batch_answer.h"
#include "common/log.h"
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXTRA_MAX = JOB_ID_TEXT + 1 + 64 + 1 }; /* "<id> <body hash hex>" */

struct batch_answer {
    uint32_t n_letters, n_extras, letter, extra; /* how many; which is next */
    char letters[LIMIT_BATCH_OPS];
    char extras[][EXTRA_MAX]; /* one a K */
};

bool
reply_is(const redisReply *reply, const char *word)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 &&
           reply->element[0]->type == REDIS_REPLY_STRING &&
           strcmp(reply->element[0]->str, word) == 0;
}

struct batch_answer *
batch_answer_read(const redisReply *reply)
{
    size_t extras = reply->elements > 2 ? reply->elements - 2 : 0;
    struct batch_answer *self = calloc(1, sizeof *self + extras * sizeof self->extras[0]);
    if (self == NULL) {
        abort();
    }
    const redisReply *letters = reply->element[1];
    if (letters->type == REDIS_REPLY_STRING && letters->len <= sizeof self->letters) {
        self->n_letters = (uint32_t)letters->len;
        memcpy(self->letters, letters->str, letters->len);
    }
    for (size_t i = 0; i < extras; i++) {
        const redisReply *extra = reply->element[i + 2];
        bool fits = extra->type == REDIS_REPLY_STRING && extra->len < EXTRA_MAX;
        (void)snprintf(self->extras[self->n_extras++], EXTRA_MAX, "%s", fits ? extra->str : "");
    }
    return self;
}

void
batch_answer_destroy(struct batch_answer **self_p)
{
    free(*self_p);
    *self_p = NULL;
}

/* A KNOWN: the first job of the key, and its body's hash. */
static void
known_read(struct dispatch_event *event, const char *extra, uint8_t hash[32])
{
    size_t length = 0;
    event->outcome = COMMIT_KNOWN;
    if (strlen(extra) < JOB_ID_TEXT || !job_id_parse(extra, JOB_ID_TEXT, &event->first)) {
        log_error("store-bad-idempotency-value");
        event->outcome = COMMIT_NO_ROOM;
    } else if (extra[JOB_ID_TEXT] != '\0' &&
               sodium_hex2bin(hash, 32, extra + JOB_ID_TEXT + 1, strlen(extra) - JOB_ID_TEXT - 1,
                              NULL, &length, NULL) == 0) {
        event->body_hash = (struct slice){ hash, (uint32_t)length };
    }
}

void
batch_answer_next(struct batch_answer *self, struct dispatch_event *event, uint8_t hash[32])
{
    char letter = '-';
    if (self->letter < self->n_letters) {
        letter = self->letters[self->letter++];
    }
    switch (letter) {
    case 'E':
        event->outcome = COMMIT_EXISTS;
        return;
    case 'K':
        known_read(event, self->extra < self->n_extras ? self->extras[self->extra++] : "", hash);
        return;
    case '-':
        event->outcome = COMMIT_ABSENT;
        return;
    default:
        event->outcome = COMMIT_DONE;
    }
}
