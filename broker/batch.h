#pragma once
/*
 * batch — transitions on their way to Redis: ops packed as arguments of one function call.
 *
 * A packed op keeps everything that its message needs, so that a batch can be sent again word for
 * word. The wire form of each op is in PROTOCOL.md, "Redis".
 */
#include "broker/effect.h"

enum { OP_ARGS_MAX = 9 };

struct packed_op {
    struct packed_op *next;
    enum op_kind kind;
    struct job_id id; /* of job ops */
    uint32_t n_args;
    uint32_t at[OP_ARGS_MAX + 1]; /* argument i is bytes[at[i]] .. bytes[at[i + 1]] */
    uint8_t bytes[];
};

struct op_queue {
    struct packed_op *first, **last;
    uint32_t count;
    size_t bytes;
};

void op_queue_setup(struct op_queue *self);
void op_queue_clear(struct op_queue *self); /* frees all ops */
void op_queue_append(struct op_queue *self, struct packed_op *op);
/* Takes the first op out; NULL when empty. */
struct packed_op *op_queue_take(struct op_queue *self);

/* Packs an op, the caller's to free(); aborts when memory is gone. The unpacker is for the
 * request's envelope (tenant, idempotency key). */
struct packed_op *op_pack(const struct op *op, uint32_t retention_s,
                          struct record_unpacker *unpacker);

/* A message to Redis: arguments that borrow from the ops. */
struct message {
    const char **argv;
    size_t *lengths;
    int argc, capacity;
};
void message_clear(struct message *self);
void message_destroy(struct message *self); /* for CLEANUP on a struct message */
void message_add(struct message *self, const void *bytes, size_t length);
void message_add_text(struct message *self, const char *text);
void message_add_op(struct message *self, const struct packed_op *op);
