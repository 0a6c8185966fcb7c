#include "gateway/record_read.h"
#include "common/log.h"
#include "proto/keys.h"

static void
read_end(struct interest *interest, enum lookup_verdict verdict)
{
    interest->reading = false;
    interest->reader->read_end(interest, verdict);
}

static void
on_expiry(void *context, const redisReply *reply)
{
    struct interest *interest = context;
    if (reply != NULL && reply->type == REDIS_REPLY_INTEGER && reply->integer > 0) {
        interest->view.expires_ms = (uint64_t)reply->integer;
    }
}

static void
on_attempts(void *context, const redisReply *reply)
{
    struct interest *interest = context;
    struct slice attempts[LIMIT_GRANTS];
    uint32_t n = 0;
    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY) {
        return;
    }
    for (size_t i = 0; i < reply->elements && n < LIMIT_GRANTS; i++) {
        const redisReply *item = reply->element[i];
        if (item->type == REDIS_REPLY_STRING && item->len <= LIMIT_RESULT_BYTES) {
            attempts[n++] = (struct slice){ item->str, (uint32_t)item->len };
        }
    }
    interest_take_attempts(interest, attempts, n);
}

/* The broker's word on a FAILED job, completed by its attempts. */
static void
on_failed_attempts(void *context, const redisReply *reply)
{
    on_attempts(context, reply);
    read_end(context, LOOKUP_FOUND);
}

static void
on_record(void *context, const redisReply *reply)
{
    struct interest *interest = context;
    struct record_unpacker *unpacker = &interest->reader->unpacker;
    struct job_record record;
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        read_end(interest, LOOKUP_AWAY);
        return;
    }
    if (reply->type != REDIS_REPLY_STRING) {
        read_end(interest, LOOKUP_UNKNOWN);
        return;
    }
    if (job_record_decode(unpacker, reply->str, reply->len, &record) != 0) {
        char id[JOB_ID_TEXT + 1];
        job_id_print(&interest->id, id);
        log_error("record-unreadable job=%s bytes=%zu", id, (size_t)reply->len);
        read_end(interest, LOOKUP_BROKEN);
        return;
    }
    const struct job_header *known = &interest->view.entry.header;
    if (interest->tenant.length > 0 && known->revision == record.header.revision &&
        known->state == record.header.state && !job_is_terminal((enum job_state)known->state)) {
        read_end(interest, LOOKUP_FOUND); /* the broker told the same, and the position */
        return;
    }
    struct job_entry entry = { .id = interest->id,
                               .header = record.header,
                               .eta_s = ETA_UNKNOWN,
                               .request = record.request,
                               .result = record.result_bytes };
    bool taken = interest_take(interest, unpacker, &entry);
    interest->has_attempts = job_is_terminal((enum job_state)record.header.state);
    read_end(interest, taken ? LOOKUP_FOUND : LOOKUP_BROKEN);
}

void
record_read(struct interest *interest)
{
    struct redis_client *redis = interest->reader->redis;
    char id[JOB_ID_TEXT + 1];
    job_id_print(&interest->id, id);
    interest->reading = true;
    redis_client_call(redis, on_expiry, interest, "PEXPIRETIME %s%s", KEY_JOB, id);
    redis_client_call(redis, on_attempts, interest, "LRANGE %s%s 0 -1", KEY_REASON, id);
    redis_client_call(redis, on_record, interest, "GET %s%s", KEY_JOB, id);
}

void
record_read_attempts(struct interest *interest)
{
    char id[JOB_ID_TEXT + 1];
    job_id_print(&interest->id, id);
    interest->reading = true;
    redis_client_call(interest->reader->redis, on_failed_attempts, interest, "LRANGE %s%s 0 -1",
                      KEY_REASON, id);
}
