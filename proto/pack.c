#include "proto/pack.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a growing buffer ---- */

void
buffer_destroy(struct buffer *self)
{
    free(self->bytes);
    *self = (struct buffer){ 0 };
}

void
buffer_add(struct buffer *self, const void *bytes, size_t length)
{
    if (length == 0) {
        return;
    }
    if (self->capacity - self->length < length) {
        size_t capacity = self->capacity > 0 ? self->capacity : 256;
        while (capacity - self->length < length) {
            capacity *= 2;
        }
        uint8_t *grown = realloc(self->bytes, capacity);
        if (grown == NULL) {
            abort(); /* out of memory: as czmq does */
        }
        self->bytes = grown;
        self->capacity = capacity;
    }
    memcpy(self->bytes + self->length, bytes, length);
    self->length += length;
}

/* ---- encoding ---- */

static int
buffer_write(void *data, const char *bytes, size_t length)
{
    buffer_add(data, bytes, length);
    return 0;
}

static msgpack_packer
packer_on(struct buffer *out)
{
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, buffer_write);
    return packer;
}

void
pack_array(struct buffer *out, uint32_t count)
{
    msgpack_packer packer = packer_on(out);
    msgpack_pack_array(&packer, count);
}

void
pack_uint(struct buffer *out, uint64_t value)
{
    msgpack_packer packer = packer_on(out);
    msgpack_pack_uint64(&packer, value);
}

static uint64_t
uint_read(const void *at, uint16_t size)
{
    switch (size) {
    case 1:
        return *(const uint8_t *)at;
    case 2: {
        uint16_t value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    case 4: {
        uint32_t value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    default: {
        assert(size == 8);
        uint64_t value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    }
}

static void
pack_list(struct buffer *out, const struct field *field, const struct list *list)
{
    assert(list->count <= field->max);
    pack_array(out, list->count);
    for (uint32_t i = 0; i < list->count; i++) {
        pack_struct(out, field->of, (const uint8_t *)list->items + (size_t)i * field->of->size);
    }
}

static void
pack_field(struct buffer *out, const struct field *field, const uint8_t *at)
{
    msgpack_packer packer = packer_on(out);
    const struct slice *slice = (const struct slice *)(const void *)at;
    switch (field->kind) {
    case FIELD_UINT:
        assert(uint_read(at, field->size) <= field->max);
        msgpack_pack_uint64(&packer, uint_read(at, field->size));
        return;
    case FIELD_FIXED:
        msgpack_pack_fix_uint64(&packer, uint_read(at, field->size));
        return;
    case FIELD_FLAG:
        *(const bool *)at ? msgpack_pack_true(&packer) : msgpack_pack_false(&packer);
        return;
    case FIELD_REAL: {
        double value;
        memcpy(&value, at, sizeof value);
        msgpack_pack_double(&packer, value);
        return;
    }
    case FIELD_ID:
        msgpack_pack_bin(&packer, JOB_ID_BYTES);
        buffer_add(out, at, JOB_ID_BYTES);
        return;
    case FIELD_BYTES:
        assert(slice->length <= field->max);
        msgpack_pack_bin(&packer, slice->length);
        buffer_add(out, slice->bytes, slice->length);
        return;
    case FIELD_TEXT:
        assert(slice->length <= field->max);
        msgpack_pack_str(&packer, slice->length);
        buffer_add(out, slice->bytes, slice->length);
        return;
    case FIELD_PART:
        pack_struct(out, field->of, at);
        return;
    case FIELD_LIST:
        pack_list(out, field, (const struct list *)(const void *)at);
        return;
    case FIELD_KIND_COUNT:
        break;
    }
    assert(false);
}

void
pack_fields(struct buffer *out, const struct shape *shape, const void *from)
{
    for (uint32_t i = 0; i < shape->n_fields; i++) {
        pack_field(out, &shape->fields[i], (const uint8_t *)from + shape->fields[i].offset);
    }
}

void
pack_struct(struct buffer *out, const struct shape *shape, const void *from)
{
    pack_array(out, shape->n_fields);
    pack_fields(out, shape, from);
}

/* ---- a look at the bytes before msgpack-c allocates for what they claim ---- */

enum { SCAN_DEPTH = 6, SCAN_ITEMS = 65536 };

struct scan {
    const uint8_t *at, *end;
    uint32_t items_left;
};

static uint64_t
scan_be(const uint8_t *at, size_t n)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

struct scan_rule {
    uint8_t length_bytes; /* bytes of a length after the tag */
    uint8_t fixed;        /* bytes that follow whatever the length */
    bool array;           /* the length counts values, not bytes */
    bool allowed;
};

/* Only what our shapes use: no maps, no ext, no float 32. Tags from 0xc0 on. */
static const struct scan_rule scan_rules[32] = {
    [0x02] = { .allowed = true },                                   /* false */
    [0x03] = { .allowed = true },                                   /* true */
    [0x04] = { .length_bytes = 1, .allowed = true },                /* bin 8 */
    [0x05] = { .length_bytes = 2, .allowed = true },                /* bin 16 */
    [0x06] = { .length_bytes = 4, .allowed = true },                /* bin 32 */
    [0x0b] = { .fixed = 8, .allowed = true },                       /* float 64 */
    [0x0c] = { .fixed = 1, .allowed = true },                       /* uint 8 */
    [0x0d] = { .fixed = 2, .allowed = true },                       /* uint 16 */
    [0x0e] = { .fixed = 4, .allowed = true },                       /* uint 32 */
    [0x0f] = { .fixed = 8, .allowed = true },                       /* uint 64 */
    [0x19] = { .length_bytes = 1, .allowed = true },                /* str 8 */
    [0x1a] = { .length_bytes = 2, .allowed = true },                /* str 16 */
    [0x1b] = { .length_bytes = 4, .allowed = true },                /* str 32 */
    [0x1c] = { .length_bytes = 2, .array = true, .allowed = true }, /* array 16 */
    [0x1d] = { .length_bytes = 4, .array = true, .allowed = true }, /* array 32 */
};

static bool scan_value(struct scan *scan, uint32_t depth);

static bool
scan_values(struct scan *scan, uint64_t count, uint32_t depth)
{
    /* each value takes at least one byte: a claimed count larger than that is a lie */
    if (depth >= SCAN_DEPTH || count > (uint64_t)(scan->end - scan->at) ||
        count > scan->items_left) {
        return false;
    }
    scan->items_left -= (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        if (!scan_value(scan, depth + 1)) {
            return false;
        }
    }
    return true;
}

static bool
scan_value(struct scan *scan, uint32_t depth)
{
    if (scan->at >= scan->end) {
        return false;
    }
    uint8_t tag = *scan->at++;
    if (tag < 0x80) {
        return true; /* positive fixint */
    }
    if ((tag & 0xf0) == 0x90) {
        return scan_values(scan, tag & 0x0f, depth);
    }
    uint64_t skip = 0;
    if ((tag & 0xe0) == 0xa0) {
        skip = tag & 0x1f; /* fixstr */
    } else if (tag >= 0xc0 && tag < 0xe0 && scan_rules[tag - 0xc0].allowed) {
        const struct scan_rule *rule = &scan_rules[tag - 0xc0];
        if ((size_t)(scan->end - scan->at) < rule->length_bytes) {
            return false;
        }
        uint64_t length = scan_be(scan->at, rule->length_bytes);
        scan->at += rule->length_bytes;
        if (rule->array) {
            return scan_values(scan, length, depth);
        }
        skip = length + rule->fixed;
    } else {
        return false; /* fixmap, negative numbers, nil, ext, map, ... : nothing of ours */
    }
    if (skip > (uint64_t)(scan->end - scan->at)) {
        return false;
    }
    scan->at += skip;
    return true;
}

/* ---- decoding ---- */

enum { ARENA_BYTES = 128 * 1024 };

struct unpacker {
    msgpack_zone zone;
    char error[160];
    size_t arena_used;
    uint64_t arena[ARENA_BYTES / 8]; /* lists of a decoded struct */
};

int
unpacker_new(struct unpacker **out)
{
    struct unpacker *self = calloc(1, sizeof *self);
    if (self == NULL || !msgpack_zone_init(&self->zone, 4096)) {
        free(self);
        return -ENOMEM;
    }
    *out = self;
    return 0;
}

void
unpacker_destroy(struct unpacker **self_p)
{
    if (*self_p != NULL) {
        msgpack_zone_destroy(&(*self_p)->zone);
        free(*self_p);
        *self_p = NULL;
    }
}

const char *
unpack_error(const struct unpacker *self)
{
    return self->error;
}

static int
refuse(struct unpacker *self, const struct shape *shape, const char *field, const char *why)
{
    (void)snprintf(self->error, sizeof self->error, "%s.%s: %s", shape->name, field, why);
    return -EBADMSG;
}

static int unpack_object(struct unpacker *self, const struct shape *shape,
                         const msgpack_object *object, void *out);

static int
unpack_uint(struct unpacker *self, const struct shape *shape, const struct field *field,
            const msgpack_object *from, void *at)
{
    if (from->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
        return refuse(self, shape, field->name, "is not an unsigned integer");
    }
    if (field->kind == FIELD_UINT && from->via.u64 > field->max) {
        return refuse(self, shape, field->name, "is too large");
    }
    uint64_t value = from->via.u64;
    memcpy(at, &value, field->size); /* little-endian machines only, asserted in job.c */
    return 0;
}

static int
unpack_slice(struct unpacker *self, const struct shape *shape, const struct field *field,
             const msgpack_object *from, void *at)
{
    bool text = field->kind == FIELD_TEXT;
    struct slice slice = { 0 };
    if (text && from->type == MSGPACK_OBJECT_STR) {
        slice = (struct slice){ from->via.str.ptr, from->via.str.size };
    } else if (!text && from->type == MSGPACK_OBJECT_BIN) {
        slice = (struct slice){ from->via.bin.ptr, from->via.bin.size };
    } else {
        return refuse(self, shape, field->name, text ? "is not a text" : "is not a byte string");
    }
    if (field->kind == FIELD_ID) {
        if (slice.length != JOB_ID_BYTES) {
            return refuse(self, shape, field->name, "is not 16 bytes");
        }
        memcpy(at, slice.bytes, JOB_ID_BYTES);
        return 0;
    }
    if (slice.length > field->max) {
        return refuse(self, shape, field->name, "is too long");
    }
    if (text && !utf8_valid(slice.bytes, slice.length, NULL)) {
        return refuse(self, shape, field->name, "is not UTF-8");
    }
    memcpy(at, &slice, sizeof slice);
    return 0;
}

static int
unpack_list(struct unpacker *self, const struct shape *shape, const struct field *field,
            const msgpack_object *from, struct list *at)
{
    if (from->type != MSGPACK_OBJECT_ARRAY) {
        return refuse(self, shape, field->name, "is not a list");
    }
    uint32_t count = from->via.array.size;
    if (count > field->max) {
        return refuse(self, shape, field->name, "has too many items");
    }
    size_t item_words = (field->of->size + 7U) / 8;
    size_t words = ((size_t)field->of->size * count + 7) / 8;
    if (words + item_words > sizeof self->arena / 8 - self->arena_used) {
        return refuse(self, shape, field->name, "is too large");
    }
    uint8_t *items = (uint8_t *)(self->arena + self->arena_used);
    self->arena_used += words;
    memset(items, 0, words * 8);
    for (uint32_t i = 0; i < count; i++) {
        int rc = unpack_object(self, field->of, &from->via.array.ptr[i],
                               items + (size_t)i * field->of->size);
        if (rc != 0) {
            return rc;
        }
    }
    *at = (struct list){ items, count };
    return 0;
}

static int
unpack_field(struct unpacker *self, const struct shape *shape, const struct field *field,
             const msgpack_object *from, uint8_t *at)
{
    switch (field->kind) {
    case FIELD_UINT:
    case FIELD_FIXED:
        return unpack_uint(self, shape, field, from, at);
    case FIELD_FLAG:
        if (from->type != MSGPACK_OBJECT_BOOLEAN) {
            return refuse(self, shape, field->name, "is not true or false");
        }
        *(bool *)at = from->via.boolean;
        return 0;
    case FIELD_REAL:
        if (from->type != MSGPACK_OBJECT_FLOAT64 || !isfinite(from->via.f64)) {
            return refuse(self, shape, field->name, "is not a finite number");
        }
        memcpy(at, &from->via.f64, sizeof from->via.f64);
        return 0;
    case FIELD_ID:
    case FIELD_BYTES:
    case FIELD_TEXT:
        return unpack_slice(self, shape, field, from, at);
    case FIELD_PART:
        return unpack_object(self, field->of, from, at);
    case FIELD_LIST:
        return unpack_list(self, shape, field, from, (struct list *)(void *)at);
    case FIELD_KIND_COUNT:
        break;
    }
    assert(false);
    return -EBADMSG;
}

static int
unpack_fields(struct unpacker *self, const struct shape *shape, const msgpack_object *values,
              void *out)
{
    for (uint32_t i = 0; i < shape->n_fields; i++) {
        const struct field *field = &shape->fields[i];
        int rc = unpack_field(self, shape, field, &values[i], (uint8_t *)out + field->offset);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int
unpack_object(struct unpacker *self, const struct shape *shape, const msgpack_object *object,
              void *out)
{
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size != shape->n_fields) {
        return refuse(self, shape, "*", "is not an array of as many fields as expected");
    }
    return unpack_fields(self, shape, object->via.array.ptr, out);
}

/* Scans and unpacks the first value of `bytes`; *used tells how long it is. */
static int
unpack_first(struct unpacker *self, const void *bytes, size_t length, msgpack_object *out,
             size_t *used)
{
    struct scan scan = { bytes, (const uint8_t *)bytes + length, SCAN_ITEMS };
    self->arena_used = 0;
    msgpack_zone_clear(&self->zone);
    (void)snprintf(self->error, sizeof self->error, "message: is not the msgpack we use");
    if (length == 0 || !scan_value(&scan, 0)) {
        return -EBADMSG;
    }
    *used = (size_t)(scan.at - (const uint8_t *)bytes);
    size_t offset = 0;
    msgpack_unpack_return rc = msgpack_unpack(bytes, *used, &offset, &self->zone, out);
    return rc == MSGPACK_UNPACK_SUCCESS ? 0 : -EBADMSG;
}

int
unpack_struct(struct unpacker *self, const struct shape *shape, struct slice bytes, void *out,
              size_t *used)
{
    msgpack_object object;
    int rc = unpack_first(self, bytes.bytes, bytes.length, &object, used);
    return rc != 0 ? rc : unpack_object(self, shape, &object, out);
}

int
unpack_message(struct unpacker *self, struct slice bytes, const struct message_head *head,
               void *out)
{
    msgpack_object object;
    size_t used = 0;
    int rc = unpack_first(self, bytes.bytes, bytes.length, &object, &used);
    if (rc != 0) {
        return rc;
    }
    if (used != bytes.length) {
        (void)snprintf(self->error, sizeof self->error, "message: has bytes behind its end");
        return -EBADMSG;
    }
    if (object.type != MSGPACK_OBJECT_ARRAY || object.via.array.size < head->n) {
        return -EBADMSG;
    }
    for (uint32_t i = 0; i < head->n; i++) {
        if (object.via.array.ptr[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
            return -EBADMSG;
        }
        head->values[i] = object.via.array.ptr[i].via.u64;
    }
    const struct shape *shape = head->shape_of(head->values);
    if (shape == NULL) {
        (void)snprintf(self->error, sizeof self->error, "message: unknown kind");
        return -EBADMSG;
    }
    if (object.via.array.size != head->n + shape->n_fields) {
        return refuse(self, shape, "*", "has another number of fields than expected");
    }
    return unpack_fields(self, shape, object.via.array.ptr + head->n, out);
}

/* ---- texts ---- */

/* Bytes of the sequence that `first` begins, 0: cannot begin one. */
static size_t
utf8_sequence(uint8_t first)
{
    if (first < 0x80) {
        return first == 0 ? 0 : 1;
    }
    if (first >= 0xc2 && first < 0xe0) {
        return 2;
    }
    if (first >= 0xe0 && first < 0xf0) {
        return 3;
    }
    return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

bool
utf8_valid(const void *bytes, size_t length, size_t *chars)
{
    const uint8_t *at = bytes;
    size_t n = 0;
    for (size_t i = 0; i < length; n++) {
        size_t size = utf8_sequence(at[i]);
        if (size == 0 || size > length - i) {
            return false;
        }
        for (size_t k = 1; k < size; k++) {
            if ((at[i + k] & 0xc0) != 0x80) {
                return false;
            }
        }
        if ((at[i] == 0xe0 && at[i + 1] < 0xa0) || (at[i] == 0xed && at[i + 1] > 0x9f) ||
            (at[i] == 0xf0 && at[i + 1] < 0x90) || (at[i] == 0xf4 && at[i + 1] > 0x8f)) {
            return false; /* overlong, surrogate, beyond U+10FFFF */
        }
        i += size;
    }
    if (chars != NULL) {
        *chars = n;
    }
    return true;
}
