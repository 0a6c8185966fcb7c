#include "proto/frames.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

/* Most members of a frame are one of these. */
#define TEXT(type, member, max)     FIELD(struct type, member, FIELD_TEXT, max)
#define BYTES(type, member, max)    FIELD(struct type, member, FIELD_BYTES, max)
#define UINT(type, member, max)     FIELD(struct type, member, FIELD_UINT, max)
#define FLAG(type, member)          FIELD(struct type, member, FIELD_FLAG, 0)
#define ID(type, member)            FIELD(struct type, member, FIELD_ID, 0)
#define LEASE(type, member)         FIELD_OF(struct type, member, FIELD_PART, 0, &lease_shape)
#define LIST(type, member, max, of) FIELD_OF(struct type, member, FIELD_LIST, max, &of##_shape)
#define SHAPE_OF(type)                                                                             \
    static const struct shape type##_shape = SHAPE(#type, struct type, type##_fields)

static const struct field upload_base_fields[] = { TEXT(upload_base, url, LIMIT_URL) };
SHAPE_OF(upload_base);

static const struct field gateway_hello_fields[] = {
    UINT(gateway_hello, version, UINT16_MAX),
    TEXT(gateway_hello, name, LIMIT_WORKER_NAME),
    TEXT(gateway_hello, store, LIMIT_WORKER_NAME),
    LIST(gateway_hello, bases, LIMIT_UPLOAD_BASES, upload_base),
    FLAG(gateway_hello, storage_full),
};
SHAPE_OF(gateway_hello);

static const struct field ping_fields[] = { FLAG(ping, storage_full) };
SHAPE_OF(ping);

static const struct field submit_fields[] = {
    ID(submit, id),
    BYTES(submit, request, LIMIT_JOB_BODY_BYTES),
    FLAG(submit, watch),
};
SHAPE_OF(submit);

static const struct field named_job_fields[] = { ID(named_job, id) };
SHAPE_OF(named_job);

static const struct field cancel_fields[] = {
    ID(cancel, id),
    TEXT(cancel, tenant, LIMIT_TENANT_NAME),
};
SHAPE_OF(cancel);

static const struct field named_jobs_fields[] = {
    LIST(named_jobs, ids, LIMIT_LIST, named_job),
    FLAG(named_jobs, full),
};
SHAPE_OF(named_jobs);

static const struct field admin_fields[] = {
    UINT(admin, op, ADMIN_OP_COUNT - 1),
    TEXT(admin, worker, LIMIT_WORKER_NAME),
};
SHAPE_OF(admin);

static const struct field admin_answer_fields[] = {
    UINT(admin_answer, op, ADMIN_OP_COUNT - 1),
    TEXT(admin_answer, worker, LIMIT_WORKER_NAME),
    FLAG(admin_answer, found),
};
SHAPE_OF(admin_answer);

static const struct field upload_key_fields[] = { BYTES(upload_key, key, 32) };
SHAPE_OF(upload_key);

static const struct field gateway_welcome_fields[] = {
    UINT(gateway_welcome, version, UINT16_MAX),
    LIST(gateway_welcome, keys, 2, upload_key),
    UINT(gateway_welcome, redis_ms, UINT64_MAX),
    UINT(gateway_welcome, retention_s, UINT32_MAX),
    TEXT(gateway_welcome, broker, LIMIT_WORKER_NAME),
};
SHAPE_OF(gateway_welcome);

static const struct field pong_fields[] = {
    UINT(pong, redis_ms, UINT64_MAX),  UINT(pong, queued, UINT32_MAX),
    UINT(pong, running, UINT32_MAX),   UINT(pong, workers, UINT32_MAX),
    UINT(pong, durability, UINT8_MAX),
};
SHAPE_OF(pong);

static const struct field accepted_fields[] = {
    ID(accepted, id),
    UINT(accepted, revision, UINT32_MAX),
    UINT(accepted, position, UINT32_MAX),
    UINT(accepted, eta_s, UINT32_MAX),
    UINT(accepted, submit_ms, UINT64_MAX),
    UINT(accepted, deadline_ms, UINT64_MAX),
    UINT(accepted, reason, WAIT_REASON_COUNT - 1),
};
SHAPE_OF(accepted);

static const struct field known_fields[] = {
    ID(known, id),
    ID(known, first),
    BYTES(known, body_hash, 32),
};
SHAPE_OF(known);

static const struct field refused_fields[] = {
    ID(refused, id),
    UINT(refused, reason, REFUSAL_COUNT - 1),
    UINT(refused, retry_after_s, UINT32_MAX),
};
SHAPE_OF(refused);

static const struct field answer_fields[] = {
    ID(answer, id),
    UINT(answer, state, JOB_STATE_COUNT - 1),
};
SHAPE_OF(answer);

static const struct field header_fields[] = {
    UINT(job_header, state, JOB_STATE_COUNT - 1), UINT(job_header, class_, CLASS_COUNT - 1),
    UINT(job_header, grant, LIMIT_GRANTS),        UINT(job_header, tries, UINT8_MAX),
    UINT(job_header, epoch, UINT32_MAX),          UINT(job_header, worker, UINT64_MAX),
    UINT(job_header, sequence, UINT64_MAX),       UINT(job_header, submit_ms, UINT64_MAX),
    UINT(job_header, start_ms, UINT64_MAX),       UINT(job_header, change_ms, UINT64_MAX),
    UINT(job_header, progress, UINT8_MAX),        UINT(job_header, revision, UINT32_MAX),
    UINT(job_header, flags, UINT32_MAX),
};
static const struct shape header_shape = SHAPE("header", struct job_header, header_fields);

static const struct field job_entry_fields[] = {
    ID(job_entry, id),
    FIELD_OF(struct job_entry, header, FIELD_PART, 0, &header_shape),
    UINT(job_entry, position, UINT32_MAX),
    UINT(job_entry, eta_s, UINT32_MAX),
    UINT(job_entry, step, UINT8_MAX),
    UINT(job_entry, steps, UINT8_MAX),
    UINT(job_entry, reason, WAIT_REASON_COUNT - 1),
    TEXT(job_entry, worker, LIMIT_WORKER_NAME),
    UINT(job_entry, code, FAIL_CODE_COUNT - 1),
    TEXT(job_entry, message, LIMIT_REASON_BYTES),
    BYTES(job_entry, request, LIMIT_JOB_BODY_BYTES),
    BYTES(job_entry, result, LIMIT_RESULT_BYTES),
};
SHAPE_OF(job_entry);

static const struct field job_entries_fields[] = { LIST(job_entries, entries, LIMIT_LIST,
                                                        job_entry) };
SHAPE_OF(job_entries);

static const struct field held_lease_fields[] = {
    LEASE(held_lease, lease),
    FLAG(held_lease, taken),
    FLAG(held_lease, finished),
};
SHAPE_OF(held_lease);

static const struct field model_name_fields[] = { TEXT(model_name, name, LIMIT_MODEL_NAME) };
SHAPE_OF(model_name);

static const struct field worker_hello_fields[] = {
    UINT(worker_hello, version, UINT16_MAX),
    TEXT(worker_hello, name, LIMIT_WORKER_NAME),
    UINT(worker_hello, incarnation, UINT64_MAX),
    LIST(worker_hello, models, LIMIT_MODELS, model_name),
    UINT(worker_hello, instances, UINT8_MAX),
    UINT(worker_hello, max_pixels, UINT32_MAX),
    UINT(worker_hello, features, UINT32_MAX),
    LIST(worker_hello, leases, LIMIT_WORKER_LEASES, held_lease),
};
SHAPE_OF(worker_hello);

static const struct field worker_state_fields[] = {
    UINT(worker_state, pull, LIMIT_WORKER_LEASES),
    UINT(worker_state, last_job, UINT32_MAX),
    LIST(worker_state, leases, LIMIT_WORKER_LEASES, held_lease),
};
SHAPE_OF(worker_state);

static const struct field progress_fields[] = {
    LEASE(progress, lease),
    UINT(progress, step, UINT8_MAX),
    UINT(progress, steps, UINT8_MAX),
};
SHAPE_OF(progress);

static const struct field done_fields[] = {
    LEASE(done, lease),
    BYTES(done, result, LIMIT_RESULT_BYTES),
};
SHAPE_OF(done);

static const struct field fail_fields[] = {
    LEASE(fail, lease),
    UINT(fail, code, FAIL_CODE_COUNT - 1),
    FLAG(fail, counted),
    FLAG(fail, final_),
    TEXT(fail, instance, LIMIT_WORKER_NAME),
    TEXT(fail, message, LIMIT_REASON_BYTES),
    BYTES(fail, picture, 32),
};
SHAPE_OF(fail);

static const struct field leased_fields[] = { LEASE(leased, lease) };
SHAPE_OF(leased);

static const struct field worker_welcome_fields[] = {
    UINT(worker_welcome, version, UINT16_MAX),
    UINT(worker_welcome, redis_ms, UINT64_MAX),
};
SHAPE_OF(worker_welcome);

static const struct field broker_state_fields[] = {
    FLAG(broker_state, complete),
    LIST(broker_state, leases, LIMIT_WORKER_LEASES, leased),
};
SHAPE_OF(broker_state);

static const struct field job_frame_fields[] = {
    UINT(job_frame, number, UINT32_MAX),
    LEASE(job_frame, lease),
    UINT(job_frame, tries, UINT8_MAX),
    UINT(job_frame, flags, UINT32_MAX),
    BYTES(job_frame, request, LIMIT_JOB_BODY_BYTES),
    LIST(job_frame, bases, LIMIT_UPLOAD_BASES, upload_base),
    TEXT(job_frame, token, LIMIT_URL),
};
SHAPE_OF(job_frame);

static const struct field grant_frame_fields[] = {
    LEASE(grant_frame, lease),
    LIST(grant_frame, bases, LIMIT_UPLOAD_BASES, upload_base),
    TEXT(grant_frame, token, LIMIT_URL),
};
SHAPE_OF(grant_frame);

static const struct field empty_frame_fields[] = { UINT(empty_frame, nothing, 0) };
SHAPE_OF(empty_frame);

static const struct field hello_refused_fields[] = {
    TEXT(hello_refused, why, LIMIT_REASON_BYTES),
    FLAG(hello_refused, newer),
};
SHAPE_OF(hello_refused);

struct frame_rule {
    const char *name;
    const struct shape *shape;
};

static const struct frame_rule frame_rules[FRAME_KIND_COUNT] = {
    [FRAME_NONE] = { "NONE", NULL },
    [FRAME_GATEWAY_HELLO] = { "GATEWAY_HELLO", &gateway_hello_shape },
    [FRAME_PING] = { "PING", &ping_shape },
    [FRAME_SUBMIT] = { "SUBMIT", &submit_shape },
    [FRAME_WITHDRAW] = { "WITHDRAW", &named_job_shape },
    [FRAME_CANCEL] = { "CANCEL", &cancel_shape },
    [FRAME_STATUS] = { "STATUS", &named_jobs_shape },
    [FRAME_WATCH] = { "WATCH", &named_jobs_shape },
    [FRAME_UNWATCH] = { "UNWATCH", &named_jobs_shape },
    [FRAME_ADMIN] = { "ADMIN", &admin_shape },
    [FRAME_GATEWAY_WELCOME] = { "GATEWAY_WELCOME", &gateway_welcome_shape },
    [FRAME_PONG] = { "PONG", &pong_shape },
    [FRAME_ACCEPTED] = { "ACCEPTED", &accepted_shape },
    [FRAME_KNOWN] = { "KNOWN", &known_shape },
    [FRAME_REFUSED] = { "REFUSED", &refused_shape },
    [FRAME_ANSWER] = { "ANSWER", &answer_shape },
    [FRAME_JOBS] = { "JOBS", &job_entries_shape },
    [FRAME_ADMIN_ANSWER] = { "ADMIN_ANSWER", &admin_answer_shape },
    [FRAME_WORKER_HELLO] = { "WORKER_HELLO", &worker_hello_shape },
    [FRAME_WORKER_STATE] = { "WORKER_STATE", &worker_state_shape },
    [FRAME_PROGRESS] = { "PROGRESS", &progress_shape },
    [FRAME_DONE] = { "DONE", &done_shape },
    [FRAME_FAIL] = { "FAIL", &fail_shape },
    [FRAME_REGRANT] = { "REGRANT", &leased_shape },
    [FRAME_BYE] = { "BYE", &empty_frame_shape },
    [FRAME_WORKER_WELCOME] = { "WORKER_WELCOME", &worker_welcome_shape },
    [FRAME_BROKER_STATE] = { "BROKER_STATE", &broker_state_shape },
    [FRAME_JOB] = { "JOB", &job_frame_shape },
    [FRAME_STOP] = { "STOP", &leased_shape },
    [FRAME_GRANT] = { "GRANT", &grant_frame_shape },
    [FRAME_STALE] = { "STALE", &leased_shape },
    [FRAME_ACK] = { "ACK", &leased_shape },
    [FRAME_DRAIN] = { "DRAIN", &empty_frame_shape },
    [FRAME_NO_SESSION] = { "NO_SESSION", &empty_frame_shape },
    [FRAME_HELLO_REFUSED] = { "HELLO_REFUSED", &hello_refused_shape },
};

static const char *const refusal_names[REFUSAL_COUNT] = {
    "", "queue_full", "tenant_full", "storage_full", "unavailable", "bad_request",
};

const char *
frame_kind_name(enum frame_kind kind)
{
    assert(kind < FRAME_KIND_COUNT);
    return frame_rules[kind].name;
}

const char *
refusal_name(enum refusal refusal)
{
    assert(refusal < REFUSAL_COUNT);
    return refusal_names[refusal];
}

const struct shape *
frame_shape(enum frame_kind kind)
{
    assert(kind < FRAME_KIND_COUNT);
    return frame_rules[kind].shape;
}

enum { LEAD_KIND, LEAD_SESSION, LEAD_EPOCH, LEAD_COUNT };

void
frame_encode(struct buffer *out, const struct frame *frame)
{
    const struct shape *shape = frame_shape(frame->kind);
    assert(shape != NULL);
    pack_array(out, LEAD_COUNT + shape->n_fields);
    pack_uint(out, frame->kind);
    pack_uint(out, frame->session);
    pack_uint(out, frame->epoch);
    pack_fields(out, shape, &frame->empty); /* every member of the union starts here */
}

static const struct shape *
shape_of_lead(const uint64_t *lead)
{
    return lead[LEAD_KIND] < FRAME_KIND_COUNT ? frame_rules[lead[LEAD_KIND]].shape : NULL;
}

int
frame_decode(struct unpacker *unpacker, const void *bytes, size_t length, struct frame *out)
{
    uint64_t lead[LEAD_COUNT];
    memset(out, 0, sizeof *out);
    if (length > LIMIT_FRAME_BYTES) {
        return -EBADMSG;
    }
    struct slice message = { bytes, (uint32_t)length };
    int rc = unpack_message(unpacker, message,
                            &(struct message_head){ lead, LEAD_COUNT, shape_of_lead }, &out->empty);
    if (rc != 0) {
        return rc;
    }
    out->kind = (enum frame_kind)lead[LEAD_KIND];
    out->session = lead[LEAD_SESSION];
    out->epoch = lead[LEAD_EPOCH];
    return 0;
}
