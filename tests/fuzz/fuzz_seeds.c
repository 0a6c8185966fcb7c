/* fuzz_seeds DIRECTORY — writes first inputs for the fuzzers into DIRECTORY/frame, /header,
 * /record: one valid message of each kind, made from the same tables that decode it, so that a new
 * kind has a seed without anybody thinking of it. */
#include "common/scope.h"
#include "proto/frames.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ARENA_BYTES = 65536, PATH_BYTES = 4096, TEXT_BYTES = 32 };

/* Memory of the lists and texts of one seed; never given back. */
static _Alignas(16) uint8_t arena[ARENA_BYTES];
static size_t arena_used;

static void *
arena_take(size_t length)
{
    arena_used = (arena_used + 15) / 16 * 16;
    assert(arena_used + length <= sizeof(arena));
    void *taken = arena + arena_used;
    arena_used += length;
    memset(taken, 0, length);
    return taken;
}

static struct slice
some_bytes(uint64_t max, uint8_t fill)
{
    uint32_t length = max < TEXT_BYTES ? (uint32_t)max : TEXT_BYTES;
    void *bytes = arena_take(length);
    memset(bytes, fill, length);
    return (struct slice){ bytes, length };
}

static void
fill_uint(uint8_t *at, const struct field *field, uint64_t value)
{
    value = field->kind == FIELD_UINT && value > field->max ? field->max : value;
    switch (field->size) {
    case sizeof(uint8_t):
        *at = (uint8_t)value;
        break;
    case sizeof(uint16_t):
        *(uint16_t *)(void *)at = (uint16_t)value;
        break;
    case sizeof(uint32_t):
        *(uint32_t *)(void *)at = (uint32_t)value;
        break;
    default:
        *(uint64_t *)(void *)at = value;
    }
}

static void fill(const struct shape *shape, uint8_t *out);

static void
fill_list(const struct field *field, struct list *list)
{
    uint32_t count = field->max < 2 ? (uint32_t)field->max : 2;
    uint8_t *items = arena_take((size_t)count * field->of->size);
    for (uint32_t i = 0; i < count; i++) {
        fill(field->of, items + (size_t)i * field->of->size);
    }
    *list = (struct list){ items, count };
}

/* Gives every field a value that obeys its table. */
static void
fill(const struct shape *shape, uint8_t *out)
{
    for (uint16_t i = 0; i < shape->n_fields; i++) {
        const struct field *field = &shape->fields[i];
        uint8_t *at = out + field->offset;
        switch (field->kind) {
        case FIELD_UINT:
        case FIELD_FIXED:
            fill_uint(at, field, 1);
            break;
        case FIELD_FLAG:
            *(bool *)at = true;
            break;
        case FIELD_REAL:
            *(double *)(void *)at = 1.5;
            break;
        case FIELD_ID:
            memset(at, 0x11, field->size);
            break;
        case FIELD_BYTES:
            *(struct slice *)(void *)at = some_bytes(field->max, 0xa5);
            break;
        case FIELD_TEXT:
            *(struct slice *)(void *)at = some_bytes(field->max, 'x');
            break;
        case FIELD_PART:
            fill(field->of, at);
            break;
        case FIELD_LIST:
            fill_list(field, (struct list *)(void *)at);
            break;
        case FIELD_KIND_COUNT:
            assert(false);
        }
    }
}

static int
write_seed(const char *directory, const char *target, const char *name, const struct buffer *seed)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", directory, target);
    if (mkdir(path, 0755) != 0 && errno != EEXIST) {
        perror(path);
        return -errno;
    }
    snprintf(path, sizeof(path), "%s/%s/%s", directory, target, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(seed->bytes, 1, seed->length, file) != seed->length) {
        perror(path);
        if (file != NULL) {
            fclose(file);
        }
        return -EIO;
    }
    return fclose(file) == 0 ? 0 : -EIO;
}

static int
write_frames(const char *directory)
{
    for (int kind = FRAME_NONE + 1; kind < FRAME_KIND_COUNT; kind++) {
        arena_used = 0;
        struct frame frame = { .kind = (enum frame_kind)kind, .session = 7, .epoch = 3 };
        fill(frame_shape(frame.kind), (uint8_t *)&frame.ping);
        CLEANUP(buffer_destroy) struct buffer seed = { 0 };
        frame_encode(&seed, &frame);
        int rc = write_seed(directory, "frame", frame_kind_name(frame.kind), &seed);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int
write_records(const char *directory)
{
    arena_used = 0;
    uint8_t bytes[JOB_HEADER_BYTES];
    struct job_header header = { .state = JOB_SUCCEEDED, .class_ = CLASS_NORMAL, .revision = 3 };
    job_header_encode(&header, bytes);
    CLEANUP(buffer_destroy) struct buffer record = { 0 };
    buffer_add(&record, bytes, sizeof(bytes));
    int rc = write_seed(directory, "header", "succeeded", &record);

    struct envelope envelope = { 0 };
    fill(&envelope_shape, (uint8_t *)&envelope);
    envelope.width = envelope.height = 64;
    pack_struct(&record, &envelope_shape, &envelope);
    struct job_body body = { 0 };
    fill(&job_body_shape, (uint8_t *)&body);
    pack_struct(&record, &job_body_shape, &body);
    rc = rc ? rc : write_seed(directory, "record", "live", &record);

    struct result result = { 0 };
    fill(&result_shape, (uint8_t *)&result);
    pack_struct(&record, &result_shape, &result);
    rc = rc ? rc : write_seed(directory, "record", "ended", &record);

    /* What fuzz_record puts behind its own header. */
    struct buffer parts = { record.bytes + JOB_HEADER_BYTES, record.length - JOB_HEADER_BYTES, 0 };
    return rc ? rc : write_seed(directory, "record", "parts", &parts);
}

static int
write_requests(const char *directory)
{
    static const char *const requests[] = {
        "{\"prompt\":\"a red fox\"}",
        "{\"prompt\":\"a\",\"negative_prompt\":\"b\",\"model\":\"z-image-turbo\",\"width\":64,"
        "\"height\":2048,\"steps\":50,\"guidance\":1.5,\"seed\":4294967295,\"n\":8}",
        "{\"prompt\":\"\\u00e4\",\"format\":\"webp\",\"quality\":100,\"priority\":\"low\","
        "\"expires_in_s\":10,\"metadata\":{\"k\":\"v\",\"l\":\"\"}}",
        "{\"prompt\":\"a\",\"prompt\":\"b\"}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    };
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        char name[16];
        snprintf(name, sizeof(name), "%zu", i);
        CLEANUP(buffer_destroy) struct buffer seed = { 0 };
        buffer_add(&seed, requests[i], strlen(requests[i]));
        int rc = write_seed(directory, "request_json", name, &seed);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_seeds DIRECTORY\n");
        return 2;
    }
    int rc = write_frames(argv[1]);
    rc = rc ? rc : write_records(argv[1]);
    rc = rc ? rc : write_requests(argv[1]);
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
