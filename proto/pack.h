#pragma once
/*
 * pack — structs to msgpack arrays and back, driven by one table a struct (its `shape`).
 *
 * A shape is a struct's fields in wire order. The encoder and the decoder read the same table, so
 * what decodes encodes to the same fields. Decoding is safe on any bytes: counts are checked
 * against the bytes left before msgpack-c sees them, nesting and sizes are bounded by the table,
 * text must be UTF-8, numbers must fit. A decoded struct borrows texts and byte strings from the
 * message and lists from the unpacker, until its next use.
 *
 * A field is written with the macros of this header:
 *
 *     static const struct field lease_fields[] = {
 *         FIELD(struct lease, job, FIELD_ID, 0),
 *         FIELD(struct lease, epoch, FIELD_UINT, UINT32_MAX),
 *     };
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that somebody else owns. */
struct slice {
    const void *bytes;
    uint32_t length;
};

/* Items that somebody else owns: `items` is an array of the listed struct. */
struct list {
    const void *items;
    uint32_t count;
};

enum field_kind {
    FIELD_UINT,  /* uint8_t .. uint64_t by the member's size, at most `max`   msgpack uint */
    FIELD_FIXED, /* uint64_t that always takes 9 bytes, so that it can be overwritten in place */
    FIELD_FLAG,  /* bool                                                       msgpack bool */
    FIELD_REAL,  /* double, finite                                             msgpack float 64 */
    FIELD_ID,    /* struct job_id                                              msgpack bin 16 */
    FIELD_BYTES, /* struct slice of at most `max` bytes                        msgpack bin */
    FIELD_TEXT,  /* struct slice, UTF-8 without NUL, at most `max` bytes       msgpack str */
    FIELD_PART,  /* a struct of shape `of`                                     msgpack array */
    FIELD_LIST,  /* struct list of shape `of`, at most `max` items             msgpack array of
                    arrays */
    FIELD_KIND_COUNT,
};

struct shape;

struct field {
    const char *name;
    enum field_kind kind;
    uint16_t offset;
    uint16_t size;
    uint64_t max;
    const struct shape *of;
};

struct shape {
    const char *name;
    uint16_t size;
    uint16_t n_fields;
    const struct field *fields;
};

#define FIELD(type, member, kind_, max_)                                                           \
    {                                                                                              \
#member, kind_, offsetof(type, member), sizeof(((type *)0)->member), max_, NULL            \
    }
#define FIELD_OF(type, member, kind_, max_, of_)                                                   \
    {                                                                                              \
#member, kind_, offsetof(type, member), sizeof(((type *)0)->member), max_, of_             \
    }
#define SHAPE(name_, type, fields_)                                                                \
    {                                                                                              \
        name_, sizeof(type), sizeof(fields_) / sizeof((fields_)[0]), fields_                       \
    }

/* A growing buffer. */
struct buffer {
    uint8_t *bytes;
    size_t length, capacity;
};
void buffer_destroy(struct buffer *self); /* frees the bytes; for CLEANUP on a struct buffer */
/* Appends; aborts when memory is gone. */
void buffer_add(struct buffer *self, const void *bytes, size_t length);

/* Appends the struct as one msgpack array. Asserts that values obey the table: only a bug breaks
 * it. */
void pack_struct(struct buffer *out, const struct shape *shape, const void *from);
/* The head of an array and single values, for messages that are more than one struct. */
void pack_array(struct buffer *out, uint32_t count);
void pack_uint(struct buffer *out, uint64_t value);
/* Appends the fields of the struct without the array's head. */
void pack_fields(struct buffer *out, const struct shape *shape, const void *from);

/* unpacker — decodes one message after the other, reusing its memory. */
struct unpacker;
int unpacker_new(struct unpacker **out); /* 0 or -ENOMEM */
void unpacker_destroy(struct unpacker **self_p);

/* The uints at the head of a message, and what they say about the rest. */
struct message_head {
    uint64_t *values; /* put there */
    uint32_t n;
    const struct shape *(*shape_of)(const uint64_t *values); /* NULL: refused */
};
/* Decodes `bytes`, which must be exactly one array of the head's uints and then the fields of the
 * shape that they name. 0, or -EBADMSG with unpack_error() saying which field is wrong and why;
 * *out is then undefined. `out` must hold the shape's size. */
int unpack_message(struct unpacker *self, struct slice bytes, const struct message_head *head,
                   void *out);
/* Decodes one struct at the start of `bytes` and tells how many bytes it took. */
int unpack_struct(struct unpacker *self, const struct shape *shape, struct slice bytes, void *out,
                  size_t *used);
/* "submit.width: 70000 is over 65535": valid until the next call. */
const char *unpack_error(const struct unpacker *self);

/* True if the bytes are valid UTF-8 without NUL. *chars (may be NULL): how many code points. */
bool utf8_valid(const void *bytes, size_t length, size_t *chars);
/* A slice of a C string; whether a slice is that text; whether two slices hold the same bytes. */
struct slice slice_of(const char *text);
bool slice_is(struct slice slice, const char *text);
bool slice_equal(struct slice a, struct slice b);
