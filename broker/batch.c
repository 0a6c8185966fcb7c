#include "broker/batch.h"
#include "common/scope.h"
#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- queues of ops ---- */

void
op_queue_setup(struct op_queue *self)
{
    *self = (struct op_queue){ 0 };
    self->last = &self->first;
}

void
op_queue_append(struct op_queue *self, struct packed_op *op)
{
    op->next = NULL;
    *self->last = op;
    self->last = &op->next;
    self->count++;
    self->bytes += op->at[op->n_args];
}

struct packed_op *
op_queue_take(struct op_queue *self)
{
    struct packed_op *op = self->first;
    if (op != NULL) {
        self->first = op->next;
        self->last = self->first == NULL ? &self->first : self->last;
        self->count--;
        self->bytes -= op->at[op->n_args];
    }
    return op;
}

void
op_queue_clear(struct op_queue *self)
{
    struct packed_op *op;
    while ((op = op_queue_take(self)) != NULL) {
        free(op);
    }
}

/* ---- packing ---- */

struct packing {
    struct buffer bytes;
    uint32_t at[OP_ARGS_MAX + 1];
    uint32_t n;
};

static void
packing_destroy(struct packing *self)
{
    buffer_destroy(&self->bytes);
}

static void
arg_end(struct packing *self)
{
    assert(self->n < OP_ARGS_MAX);
    self->at[++self->n] = (uint32_t)self->bytes.length;
}

static void
arg_bytes(struct packing *self, const void *bytes, size_t length)
{
    buffer_add(&self->bytes, bytes, length);
    arg_end(self);
}

static void
arg_text(struct packing *self, const char *text)
{
    arg_bytes(self, text, strlen(text));
}

static void
arg_number(struct packing *self, uint64_t number)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    arg_text(self, text);
}

static void
arg_hex(struct packing *self, struct slice slice)
{
    const uint8_t *bytes = slice.bytes;
    for (uint32_t i = 0; i < slice.length; i++) {
        char hex[3];
        (void)snprintf(hex, sizeof hex, "%02x", bytes[i]);
        buffer_add(&self->bytes, hex, 2);
    }
    arg_end(self);
}

static void
arg_id(struct packing *self, const struct job_id *id)
{
    char text[JOB_ID_TEXT + 1];
    job_id_print(id, text);
    arg_text(self, text);
}

static void
arg_header(struct packing *self, const struct job_header *header)
{
    uint8_t bytes[JOB_HEADER_BYTES];
    job_header_encode(header, bytes);
    arg_bytes(self, bytes, sizeof bytes);
}

/* The whole record; a FAILED job's result is ours to write. */
static void
arg_record(struct packing *self, const struct op *op)
{
    uint8_t bytes[JOB_HEADER_BYTES];
    job_header_encode(&op->header, bytes);
    buffer_add(&self->bytes, bytes, sizeof bytes);
    buffer_add(&self->bytes, op->request.bytes, op->request.length);
    if (op->header.state == JOB_FAILED) {
        struct result result = { .worker = op->worker,
                                 .code = (uint8_t)op->code,
                                 .message = op->message };
        pack_struct(&self->bytes, &result_shape, &result);
    } else if (op->header.state == JOB_SUCCEEDED) {
        buffer_add(&self->bytes, op->result.bytes, op->result.length);
    }
    arg_end(self);
}

static void
arg_reason(struct packing *self, const struct reason *reason)
{
    if (reason->code == FAIL_NONE) {
        arg_text(self, "");
        return;
    }
    json_t *object = json_pack(
        "{s:i,s:s%,s:s%,s:s,s:s%}", "attempt", (int)reason->attempt, "worker",
        reason->worker.length > 0 ? reason->worker.bytes : "", (size_t)reason->worker.length,
        "instance", reason->instance.length > 0 ? reason->instance.bytes : "",
        (size_t)reason->instance.length, "code", fail_code_name(reason->code), "message",
        reason->message.length > 0 ? reason->message.bytes : "", (size_t)reason->message.length);
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    arg_text(self, text != NULL ? text : "");
    free(text);
}

/* class x 2^45 + sequence: exact in the double of a ZSET's score. */
static void
arg_score(struct packing *self, const struct job_header *header)
{
    assert(header->sequence < 1ULL << 45);
    arg_number(self, ((uint64_t)header->class_ << 45) + header->sequence);
}

/* "<id> <body hash hex>": what an idempotency key holds. */
static void
arg_first(struct packing *self, const struct op *op, const struct envelope *envelope)
{
    char text[JOB_ID_TEXT + 1];
    job_id_print(&op->id, text);
    buffer_add(&self->bytes, text, JOB_ID_TEXT);
    buffer_add(&self->bytes, " ", 1);
    arg_hex(self, envelope->body_hash);
}

static void
pack_whole(struct packing *self, const struct op *op, const struct envelope *envelope)
{
    arg_id(self, &op->id);
    arg_score(self, &op->header);
    arg_number(self, op->header.sequence);
    arg_bytes(self, envelope->tenant.bytes, envelope->tenant.length);
    arg_hex(self, envelope->idempotency);
    arg_first(self, op, envelope);
    arg_record(self, op);
}

static void
pack_op(struct packing *self, const struct op *op, const struct envelope *envelope,
        uint32_t retention_s)
{
    switch (op->kind) {
    case OP_SUBMIT:
        arg_text(self, "S");
        pack_whole(self, op, envelope);
        return;
    case OP_TOUCH:
        arg_text(self, "T");
        arg_id(self, &op->id);
        arg_header(self, &op->header);
        arg_reason(self, &op->reason);
        return;
    case OP_FINISH:
        arg_text(self, "F");
        arg_id(self, &op->id);
        arg_record(self, op);
        arg_number(self, retention_s);
        arg_hex(self, envelope->idempotency);
        arg_reason(self, &op->reason);
        return;
    case OP_RESTORE:
        arg_text(self, job_is_terminal(op->header.state) ? "E" : "R");
        pack_whole(self, op, envelope);
        if (job_is_terminal(op->header.state)) {
            arg_number(self, retention_s);
        }
        return;
    case OP_WORKER_EVICTED:
    case OP_WORKER_LEFT:
        arg_text(self, "W");
        arg_bytes(self, op->worker.bytes, op->worker.length);
        arg_text(self, op->kind == OP_WORKER_LEFT ? "left" : "evicted");
        return;
    case OP_KIND_COUNT:
        break;
    }
    assert(false);
}

struct packed_op *
op_pack(const struct op *op, uint32_t retention_s, struct record_unpacker *unpacker)
{
    struct envelope envelope = { 0 };
    size_t used;
    if (op->kind != OP_TOUCH && op->request.length > 0) {
        int rc = unpack_struct(unpacker->envelope, &envelope_shape, op->request, &envelope, &used);
        assert(rc == 0); /* it was decoded before the core took it */
    }
    CLEANUP(packing_destroy) struct packing packing = { 0 };
    pack_op(&packing, op, &envelope, retention_s);
    struct packed_op *packed = malloc(sizeof *packed + packing.bytes.length);
    if (packed == NULL) {
        abort();
    }
    packed->next = NULL;
    packed->kind = op->kind;
    packed->id = op->id;
    packed->n_args = packing.n;
    memcpy(packed->at, packing.at, sizeof packed->at);
    memcpy(packed->bytes, packing.bytes.bytes, packing.bytes.length);
    return packed;
}

/* ---- messages ---- */

void
message_clear(struct message *self)
{
    self->argc = 0;
}

void
message_destroy(struct message *self)
{
    free(self->argv);
    free(self->lengths);
    *self = (struct message){ 0 };
}

void
message_add(struct message *self, const void *bytes, size_t length)
{
    if (self->argc == self->capacity) {
        int capacity = self->capacity > 0 ? self->capacity * 2 : 64;
        self->argv = realloc(self->argv, (size_t)capacity * sizeof *self->argv);
        self->lengths = realloc(self->lengths, (size_t)capacity * sizeof *self->lengths);
        if (self->argv == NULL || self->lengths == NULL) {
            abort();
        }
        self->capacity = capacity;
    }
    self->argv[self->argc] = bytes;
    self->lengths[self->argc++] = length;
}

void
message_add_text(struct message *self, const char *text)
{
    message_add(self, text, strlen(text));
}

void
message_add_op(struct message *self, const struct packed_op *op)
{
    for (uint32_t i = 0; i < op->n_args; i++) {
        message_add(self, op->bytes + op->at[i], op->at[i + 1] - op->at[i]);
    }
}
