#include "gateway/request.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whole numbers of a request while it is read: checked before they shrink to their fields. */
struct numbers {
    int64_t width, height, steps, seed, n, quality, expires_in_s;
};

/* A request half-read. */
struct reading {
    struct request *request;
    struct field_errors *errors;
    struct numbers numbers;
    bool all_real; /* a whole number did not fit: all were read as reals, to name its field */
};

struct rule {
    const char *name;
    void (*read)(struct reading *self, const struct rule *rule, const json_t *value);
    size_t offset;            /* of what the rule fills in */
    int64_t min, max, step;   /* whole numbers: the value; texts: the count of characters */
    const char *const *words; /* a choice: what may be said, ended by NULL */
};

void
field_errors_add(struct field_errors *self, struct slice field, const char *format, ...)
{
    if (self->count == LIMIT_FIELD_ERRORS) {
        return;
    }
    struct field_error *error = &self->items[self->count++];
    size_t length = field.length;
    if (length >= sizeof error->field) {
        length = sizeof error->field - 1;
        while (length > 0 && (((const uint8_t *)field.bytes)[length] & 0xc0) == 0x80) {
            length--; /* not in the middle of a character */
        }
    }
    if (length > 0) {
        memcpy(error->field, field.bytes, length);
    }
    error->field[length] = '\0';
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
}

static struct slice
string_slice(const json_t *value)
{
    return (struct slice){ json_string_value(value), (uint32_t)json_string_length(value) };
}

static void
read_text(struct reading *self, const struct rule *rule, const json_t *value)
{
    struct slice *target = (struct slice *)((char *)self->request + rule->offset);
    size_t chars = 0;
    if (!json_is_string(value)) {
        field_errors_add(self->errors, slice_of(rule->name), "must be a string");
        return;
    }
    const char *text = json_string_value(value);
    size_t length = json_string_length(value);
    if (length > LIMIT_HTTP_BODY_BYTES || !utf8_valid(text, length, &chars)) {
        field_errors_add(self->errors, slice_of(rule->name), "must be UTF-8 without NUL");
    } else if (chars < (size_t)rule->min || chars > (size_t)rule->max) {
        field_errors_add(self->errors, slice_of(rule->name),
                         "must have %" PRId64 " to %" PRId64 " characters, has %zu", rule->min,
                         rule->max, chars);
    } else {
        *target = string_slice(value);
    }
}

static void
read_whole(struct reading *self, const struct rule *rule, const json_t *value)
{
    int64_t *target = (int64_t *)(void *)((char *)&self->numbers + rule->offset);
    struct slice name = slice_of(rule->name);
    double real = json_real_value(value); /* 0 if it is none */
    bool huge = real > UINT32_MAX || real < -(double)UINT32_MAX;
    if (!json_is_integer(value) && !(self->all_real && json_is_real(value))) {
        field_errors_add(self->errors, name, "must be a whole number");
        return;
    }
    int64_t number = json_is_integer(value) ? json_integer_value(value)
                     : huge                 ? INT64_MAX
                                            : (int64_t)real;
    if (number < rule->min || number > rule->max) {
        field_errors_add(self->errors, name, "must be from %" PRId64 " to %" PRId64 ", is %" PRId64,
                         rule->min, rule->max, number);
    } else if (number % rule->step != 0) {
        field_errors_add(self->errors, name, "must be a multiple of %" PRId64 ", is %" PRId64,
                         rule->step, number);
    } else {
        *target = number;
    }
}

static void
read_real(struct reading *self, const struct rule *rule, const json_t *value)
{
    double *target = (double *)(void *)((char *)self->request + rule->offset);
    if (!json_is_number(value)) {
        field_errors_add(self->errors, slice_of(rule->name), "must be a number");
        return;
    }
    double number = json_number_value(value);
    if (!(number >= (double)rule->min && number <= (double)rule->max)) {
        field_errors_add(self->errors, slice_of(rule->name), "must be from %" PRId64 " to %" PRId64,
                         rule->min, rule->max);
    } else {
        *target = number;
    }
}

static void
read_choice(struct reading *self, const struct rule *rule, const json_t *value)
{
    uint8_t *target = (uint8_t *)self->request + rule->offset;
    char all[64] = "";
    size_t used = 0;
    for (uint8_t i = 0; rule->words[i] != NULL; i++) {
        if (json_is_string(value) && slice_equal(string_slice(value), slice_of(rule->words[i]))) {
            *target = i;
            return;
        }
        used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", i > 0 ? ", " : "",
                                 rule->words[i]);
    }
    field_errors_add(self->errors, slice_of(rule->name), "must be one of: %s", all);
}

bool
model_name_valid(const char *name, size_t length)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-";
    return length >= 1 && length <= LIMIT_MODEL_NAME && strspn(name, allowed) == length;
}

static void
read_model(struct reading *self, const struct rule *rule, const json_t *value)
{
    struct slice *target = (struct slice *)((char *)self->request + rule->offset);
    if (!json_is_string(value) ||
        !model_name_valid(json_string_value(value), json_string_length(value))) {
        field_errors_add(self->errors, slice_of(rule->name),
                         "must be a model's name: 1 to %d of A-Z a-z 0-9 . _ / -",
                         LIMIT_MODEL_NAME);
        return;
    }
    *target = string_slice(value);
}

static void
read_metadata(struct reading *self, const struct rule *rule, const json_t *value)
{
    struct slice name = slice_of(rule->name);
    size_t bytes = 0;
    const char *key;
    json_t *item;
    if (!json_is_object(value)) {
        field_errors_add(self->errors, name, "must be an object of strings");
        return;
    }
    json_object_foreach((json_t *)value, key, item)
    {
        bytes += strlen(key);
        if (!json_is_string(item) ||
            !utf8_valid(json_string_value(item), json_string_length(item), NULL)) {
            field_errors_add(self->errors, name, "must be an object of strings without NUL");
            return;
        }
        bytes += json_string_length(item);
    }
    if (json_object_size(value) > LIMIT_METADATA_ITEMS || bytes > LIMIT_METADATA_BYTES) {
        field_errors_add(self->errors, name, "must have at most %d strings and %d bytes in all",
                         LIMIT_METADATA_ITEMS, LIMIT_METADATA_BYTES);
        return;
    }
    self->request->metadata = json_dumps(value, JSON_COMPACT | JSON_PRESERVE_ORDER);
    if (self->request->metadata == NULL) {
        abort(); /* out of memory */
    }
    struct slice text = slice_of(self->request->metadata);
    if (text.length > LIMIT_METADATA_TEXT) {
        field_errors_add(self->errors, name, "has too many control characters");
        return;
    }
    self->request->body.metadata = text;
}

static const char *const priorities[] = { "high", "normal", "low", NULL };
static const char *const formats[] = { "png", "jpeg", "webp", NULL };
_Static_assert(CLASS_HIGH == 0 && CLASS_LOW == 2 && CLASS_COUNT == 3, "priorities follow classes");
_Static_assert(PICTURE_PNG == 0 && PICTURE_WEBP == 2 && PICTURE_FORMAT_COUNT == 3, "so do formats");

#define IN_REQUEST(member) offsetof(struct request, member)
#define WHOLE(name_, min_, max_, step_)                                                            \
    {                                                                                              \
#name_, read_whole, offsetof(struct numbers, name_), min_, max_, step_, NULL               \
    }
/* clang-format off */ /* the columns are the rule */
static const struct rule rules[] = {
    { "prompt",          read_text,     IN_REQUEST(body.prompt),          1, LIMIT_PROMPT_CHARS, 1, NULL },
    { "negative_prompt", read_text,     IN_REQUEST(body.negative_prompt), 0, LIMIT_PROMPT_CHARS, 1, NULL },
    { "model",           read_model,    IN_REQUEST(envelope.model),       0, 0, 1, NULL },
    WHOLE(width,        LIMIT_SIDE_MIN,      LIMIT_SIDE_MAX,      LIMIT_SIDE_STEP),
    WHOLE(height,       LIMIT_SIDE_MIN,      LIMIT_SIDE_MAX,      LIMIT_SIDE_STEP),
    WHOLE(steps,        1,                   LIMIT_STEPS,         1),
    { "guidance",        read_real,     IN_REQUEST(body.guidance),        0, LIMIT_GUIDANCE, 1, NULL },
    WHOLE(seed,         0,                   UINT32_MAX,          1),
    WHOLE(n,            1,                   LIMIT_IMAGES,        1),
    { "format",          read_choice,   IN_REQUEST(body.format),          0, 0, 1, formats },
    WHOLE(quality,      1,                   LIMIT_QUALITY,       1),
    { "priority",        read_choice,   IN_REQUEST(envelope.class_),      0, 0, 1, priorities },
    WHOLE(expires_in_s, LIMIT_EXPIRES_MIN_S, LIMIT_EXPIRES_MAX_S, 1),
    { "metadata",        read_metadata, 0,                                0, 0, 1, NULL },
};
/* clang-format on */
enum { N_RULES = sizeof rules / sizeof rules[0] };

static const struct rule *
rule_find(const char *name)
{
    for (size_t i = 0; i < N_RULES; i++) {
        if (strcmp(rules[i].name, name) == 0) {
            return &rules[i];
        }
    }
    return NULL;
}

/* jansson allows 2,048 levels, each a call on the stack; a request has two. */
static bool
too_deep(struct slice text)
{
    const char *at = text.bytes;
    int depth = 0;
    bool in_string = false;
    for (uint32_t i = 0; i < text.length; i++) {
        if (in_string) {
            in_string = at[i] != '"';
            i += at[i] == '\\'; /* what follows it ends no string */
        } else if (at[i] == '"') {
            in_string = true;
        } else if (at[i] == '[' || at[i] == '{') {
            if (++depth > LIMIT_JSON_DEPTH) {
                return true;
            }
        } else if (at[i] == ']' || at[i] == '}') {
            depth--;
        }
    }
    return false;
}

/* NUL in a string is JSON, so the field that has one is told; a request of one number is JSON. */
enum { LOAD_FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY };

static enum request_verdict
document_load(struct request *out, struct field_errors *errors, struct slice text, bool *all_real)
{
    json_error_t error;
    if (text.length == 0) {
        field_errors_add(errors, slice_of(""), "the body is empty; send a JSON object");
        return REQUEST_MALFORMED;
    }
    if (too_deep(text)) {
        field_errors_add(errors, slice_of(""), "nested deeper than %d levels", LIMIT_JSON_DEPTH);
        return REQUEST_MALFORMED;
    }
    out->document = json_loadb(text.bytes, text.length, LOAD_FLAGS, &error);
    if (out->document == NULL && strncmp(error.text, "too big", strlen("too big")) == 0) {
        *all_real = true;
        out->document =
            json_loadb(text.bytes, text.length, LOAD_FLAGS | JSON_DECODE_INT_AS_REAL, &error);
    }
    if (out->document == NULL) {
        field_errors_add(errors, slice_of(""), "line %d, column %d: %.80s", error.line,
                         error.column, error.text);
        return REQUEST_MALFORMED;
    }
    if (!json_is_object(out->document)) {
        field_errors_add(errors, slice_of(""), "must be a JSON object");
        return REQUEST_INVALID;
    }
    return REQUEST_OK;
}

enum request_verdict
request_parse(struct request *out, struct field_errors *errors, struct slice text,
              uint32_t random_seed)
{
    *out = (struct request){ 0 };
    *errors = (struct field_errors){ 0 };
    bool all_real = false;
    enum request_verdict verdict = document_load(out, errors, text, &all_real);
    if (verdict != REQUEST_OK) {
        return verdict;
    }
    struct reading reading = {
        .request = out,
        .errors = errors,
        .all_real = all_real,
        .numbers = { .width = REQUEST_SIDE,
                     .height = REQUEST_SIDE,
                     .steps = REQUEST_STEPS,
                     .seed = random_seed,
                     .n = 1,
                     .quality = REQUEST_QUALITY,
                     .expires_in_s = LIMIT_EXPIRES_DEFAULT_S },
    };
    out->envelope.model = slice_of(REQUEST_MODEL);
    out->envelope.class_ = CLASS_NORMAL;
    const char *key;
    json_t *value;
    json_object_foreach(out->document, key, value)
    {
        const struct rule *rule = rule_find(key);
        if (rule == NULL) {
            field_errors_add(errors, slice_of(key), "is not a field of a request");
        } else {
            rule->read(&reading, rule, value);
        }
    }
    if (json_object_get(out->document, "prompt") == NULL) {
        field_errors_add(errors, slice_of("prompt"), "is required");
    }
    if (all_real && errors->count == 0) {
        field_errors_add(errors, slice_of(""), "a number is too large");
    }
    out->envelope.width = (uint16_t)reading.numbers.width;
    out->envelope.height = (uint16_t)reading.numbers.height;
    out->envelope.steps = (uint8_t)reading.numbers.steps;
    out->envelope.n = (uint8_t)reading.numbers.n;
    out->envelope.expires_in_s = (uint32_t)reading.numbers.expires_in_s;
    out->body.seed = (uint32_t)reading.numbers.seed;
    out->body.quality = (uint8_t)reading.numbers.quality;
    return errors->count == 0 ? REQUEST_OK : REQUEST_INVALID;
}

void
request_destroy(struct request *self)
{
    json_decref(self->document);
    free(self->metadata);
    *self = (struct request){ 0 };
}

void
request_pack(struct buffer *out, const struct request *request)
{
    pack_struct(out, &envelope_shape, &request->envelope);
    pack_struct(out, &job_body_shape, &request->body);
}
