#include "proto/job.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are written as they lie");

static uint32_t crc_table[256];

__attribute__((constructor)) static void /* before any thread */
crc_table_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);
        }
        crc_table[i] = crc;
    }
}

uint32_t
crc32c(const void *bytes, size_t length)
{
    uint32_t crc = ~0U;
    const uint8_t *at = bytes;
    for (size_t i = 0; i < length; i++) {
        crc = crc >> 8 ^ crc_table[(crc ^ at[i]) & 0xff];
    }
    return ~crc;
}

/* Where each field of the header lies; PROTOCOL.md, "Job record". */
struct header_field {
    uint8_t at, size, offset;
};
#define HEADER(at_, member)                                                                        \
    {                                                                                              \
        at_, sizeof(((struct job_header *)0)->member), offsetof(struct job_header, member)         \
    }
static const struct header_field header_fields[] = {
    HEADER(2, state),     HEADER(3, class_),     HEADER(4, grant),     HEADER(5, tries),
    HEADER(6, progress),  HEADER(8, epoch),      HEADER(12, revision), HEADER(16, worker),
    HEADER(24, sequence), HEADER(32, submit_ms), HEADER(40, start_ms), HEADER(48, change_ms),
    HEADER(56, flags),
};
enum { HEADER_MAGIC = 0xdb, HEADER_VERSION = 1, HEADER_CRC_AT = 60 };

void
job_header_encode(const struct job_header *header, uint8_t out[JOB_HEADER_BYTES])
{
    memset(out, 0, JOB_HEADER_BYTES);
    out[0] = HEADER_MAGIC;
    out[1] = HEADER_VERSION;
    for (size_t i = 0; i < sizeof header_fields / sizeof header_fields[0]; i++) {
        const struct header_field *field = &header_fields[i];
        memcpy(out + field->at, (const uint8_t *)header + field->offset, field->size);
    }
    uint32_t crc = crc32c(out, HEADER_CRC_AT);
    memcpy(out + HEADER_CRC_AT, &crc, sizeof crc);
}

bool
job_header_decode(const void *bytes, size_t length, struct job_header *out)
{
    const uint8_t *from = bytes;
    if (length < JOB_HEADER_BYTES || from[0] != HEADER_MAGIC || from[1] != HEADER_VERSION) {
        return false;
    }
    uint32_t crc;
    memcpy(&crc, from + HEADER_CRC_AT, sizeof crc);
    if (crc != crc32c(from, HEADER_CRC_AT)) {
        return false;
    }
    *out = (struct job_header){ 0 };
    for (size_t i = 0; i < sizeof header_fields / sizeof header_fields[0]; i++) {
        const struct header_field *field = &header_fields[i];
        memcpy((uint8_t *)out + field->offset, from + field->at, field->size);
    }
    return out->state > JOB_NONE && out->state < JOB_STATE_COUNT && out->class_ < CLASS_COUNT;
}

static const struct field envelope_fields[] = {
    FIELD(struct envelope, key, FIELD_FIXED, UINT64_MAX),
    FIELD(struct envelope, deadline_ms, FIELD_FIXED, UINT64_MAX),
    FIELD(struct envelope, tenant, FIELD_TEXT, LIMIT_TENANT_NAME),
    FIELD(struct envelope, model, FIELD_TEXT, LIMIT_MODEL_NAME),
    FIELD(struct envelope, class_, FIELD_UINT, CLASS_COUNT - 1),
    FIELD(struct envelope, width, FIELD_UINT, LIMIT_SIDE_MAX),
    FIELD(struct envelope, height, FIELD_UINT, LIMIT_SIDE_MAX),
    FIELD(struct envelope, steps, FIELD_UINT, LIMIT_STEPS),
    FIELD(struct envelope, n, FIELD_UINT, LIMIT_IMAGES),
    FIELD(struct envelope, features, FIELD_UINT, UINT32_MAX),
    FIELD(struct envelope, expires_in_s, FIELD_UINT, LIMIT_EXPIRES_MAX_S),
    FIELD(struct envelope, idempotency, FIELD_BYTES, 32),
    FIELD(struct envelope, body_hash, FIELD_BYTES, 32),
};
const struct shape envelope_shape = SHAPE("envelope", struct envelope, envelope_fields);

static const struct field body_fields[] = {
    FIELD(struct job_body, prompt, FIELD_TEXT, LIMIT_PROMPT_BYTES),
    FIELD(struct job_body, negative_prompt, FIELD_TEXT, LIMIT_PROMPT_BYTES),
    FIELD(struct job_body, guidance, FIELD_REAL, 0),
    FIELD(struct job_body, seed, FIELD_UINT, UINT32_MAX),
    FIELD(struct job_body, format, FIELD_UINT, PICTURE_FORMAT_COUNT - 1),
    FIELD(struct job_body, quality, FIELD_UINT, 100),
    FIELD(struct job_body, metadata, FIELD_BYTES, 2 * LIMIT_METADATA_BYTES + 1024),
};
const struct shape job_body_shape = SHAPE("body", struct job_body, body_fields);

static const struct field image_fields[] = {
    FIELD(struct result_image, width, FIELD_UINT, LIMIT_SIDE_MAX),
    FIELD(struct result_image, height, FIELD_UINT, LIMIT_SIDE_MAX),
    FIELD(struct result_image, seed, FIELD_UINT, UINT32_MAX),
    FIELD(struct result_image, bytes, FIELD_UINT, LIMIT_PICTURE_BYTES),
    FIELD(struct result_image, format, FIELD_UINT, PICTURE_FORMAT_COUNT - 1),
    FIELD(struct result_image, sha256, FIELD_BYTES, 32),
};
static const struct shape image_shape = SHAPE("image", struct result_image, image_fields);

static const struct field result_fields[] = {
    FIELD(struct result, worker, FIELD_TEXT, LIMIT_WORKER_NAME),
    FIELD(struct result, instance, FIELD_TEXT, LIMIT_WORKER_NAME),
    FIELD(struct result, gpu_ms, FIELD_UINT, UINT32_MAX),
    FIELD(struct result, warnings, FIELD_UINT, WARNING_UNIFORM_IMAGE),
    FIELD(struct result, code, FIELD_UINT, FAIL_CODE_COUNT - 1),
    FIELD(struct result, message, FIELD_TEXT, LIMIT_REASON_BYTES),
    FIELD_OF(struct result, images, FIELD_LIST, LIMIT_IMAGES, &image_shape),
};
const struct shape result_shape = SHAPE("result", struct result, result_fields);

static const struct field lease_fields[] = {
    FIELD(struct lease, job, FIELD_ID, 0),
    FIELD(struct lease, epoch, FIELD_UINT, UINT32_MAX),
    FIELD(struct lease, grant, FIELD_UINT, LIMIT_GRANTS),
};
const struct shape lease_shape = SHAPE("lease", struct lease, lease_fields);

int
record_unpacker_new(struct record_unpacker *self)
{
    *self = (struct record_unpacker){ 0 };
    int rc = unpacker_new(&self->envelope);
    rc = rc ? rc : unpacker_new(&self->body);
    rc = rc ? rc : unpacker_new(&self->result);
    if (rc != 0) {
        record_unpacker_destroy(self);
    }
    return rc;
}

void
record_unpacker_destroy(struct record_unpacker *self)
{
    unpacker_destroy(&self->envelope);
    unpacker_destroy(&self->body);
    unpacker_destroy(&self->result);
}

/* Decodes envelope and body at the start of `bytes`; *used tells how long both are. */
static int
request_decode(struct record_unpacker *unpacker, struct slice bytes, struct envelope *envelope,
               struct job_body *body, size_t *used)
{
    size_t first = 0;
    size_t second = 0;
    int rc = unpack_struct(unpacker->envelope, &envelope_shape, bytes, envelope, &first);
    if (rc == 0) {
        struct slice rest = { (const uint8_t *)bytes.bytes + first,
                              bytes.length - (uint32_t)first };
        rc = unpack_struct(unpacker->body, &job_body_shape, rest, body, &second);
    }
    if (rc != 0) {
        return rc;
    }
    /* array 13 in one byte, then two fields of nine: what the broker overwrites in place */
    const uint8_t *at = bytes.bytes;
    if (first < ENVELOPE_DEADLINE_AT + 8 || at[0] != 0x9d || at[ENVELOPE_KEY_AT - 1] != 0xcf ||
        at[ENVELOPE_DEADLINE_AT - 1] != 0xcf) {
        return -EBADMSG;
    }
    *used = first + second;
    return 0;
}

int
job_request_decode(struct record_unpacker *unpacker, struct slice request,
                   struct envelope *envelope, struct job_body *body)
{
    size_t used = 0;
    int rc = request_decode(unpacker, request, envelope, body, &used);
    return rc == 0 && used != request.length ? -EBADMSG : rc;
}

int
job_record_decode(struct record_unpacker *unpacker, const void *bytes, size_t length,
                  struct job_record *out)
{
    *out = (struct job_record){ 0 };
    if (length > UINT32_MAX || !job_header_decode(bytes, length, &out->header)) {
        return -EBADMSG;
    }
    struct slice rest = { (const uint8_t *)bytes + JOB_HEADER_BYTES,
                          (uint32_t)(length - JOB_HEADER_BYTES) };
    size_t used = 0;
    int rc = request_decode(unpacker, rest, &out->envelope, &out->body, &used);
    if (rc != 0) {
        return rc;
    }
    out->request = (struct slice){ rest.bytes, (uint32_t)used };
    out->result_bytes =
        (struct slice){ (const uint8_t *)rest.bytes + used, rest.length - (uint32_t)used };
    out->has_result = out->result_bytes.length > 0;
    if (!out->has_result) {
        return 0;
    }
    rc = unpack_struct(unpacker->result, &result_shape, out->result_bytes, &out->result, &used);
    return rc == 0 && used != out->result_bytes.length ? -EBADMSG : rc;
}

uint32_t
epoch_hash(const char *token)
{
    return crc32c(token, strlen(token));
}
