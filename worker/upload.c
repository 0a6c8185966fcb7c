#include "worker/upload.h"
#include "common/log.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Visible ASCII only: no blank, no line end, nothing that could be taken for another header. */
static bool
is_printable(struct slice text)
{
    const unsigned char *bytes = text.bytes;
    for (uint32_t i = 0; i < text.length; i++) {
        if (bytes[i] <= ' ' || bytes[i] >= 0x7f || bytes[i] == '"') {
            return false;
        }
    }
    return text.length > 0;
}

static void
copy(char out[LIMIT_URL + 1], struct slice text)
{
    uint32_t length = is_printable(text) && text.length <= LIMIT_URL ? text.length : 0;
    memcpy(out, text.bytes, length);
    out[length] = '\0';
}

void
upload_grant_set(struct upload_grant *self, const struct list *bases, struct slice token)
{
    const struct upload_base *items = bases->items;
    assert(bases->count <= LIMIT_UPLOAD_BASES);
    self->n_bases = (uint8_t)bases->count;
    for (uint32_t i = 0; i < bases->count; i++) {
        copy(self->bases[i], items[i].url);
        if (strncmp(self->bases[i], "http://", 7) != 0 &&
            strncmp(self->bases[i], "https://", 8) != 0) {
            self->bases[i][0] = '\0';
        }
    }
    copy(self->token, token);
}

struct http_call *
upload_start(struct http_client *http, const struct upload *upload, http_response_fn fn,
             void *context)
{
    const struct upload_grant *grant = upload->grant;
    if (upload->base >= grant->n_bases || grant->bases[upload->base][0] == '\0') {
        return NULL;
    }
    char id[JOB_ID_TEXT + 1];
    char url[LIMIT_URL + 128];
    char authorization[LIMIT_URL + 64];
    job_id_print(&upload->lease->job, id);
    snprintf(url, sizeof url, "%s/upload/%s/%u/%u?epoch=%08x", grant->bases[upload->base], id,
             upload->lease->grant, upload->picture, upload->lease->epoch);
    snprintf(authorization, sizeof authorization, "Authorization: Grant %s", grant->token);
    struct http_request request = { .method = "PUT",
                                    .url = url,
                                    .content_type = picture_format_type(upload->format),
                                    .headers = { authorization },
                                    .body = upload->bytes,
                                    .body_length = upload->length,
                                    .limit_ms = LIMIT_UPLOAD_MS,
                                    .response_max = LIMIT_RESULT_BYTES };
    return http_client_start(http, &request, fn, context);
}

enum upload_outcome
upload_judge(const struct http_response *response, const char *base)
{
    switch (response->status) {
    case 200:
    case 201:
        return UPLOAD_STORED;
    case 410:
        log_info("upload-grant-expired base=%s", base);
        return UPLOAD_EXPIRED;
    case 400:
    case 403:
    case 409:
    case 413:
        log_error("upload-refused base=%s status=%d", base, response->status);
        return UPLOAD_REFUSED;
    default: /* not an enum: any other number says that this base is of no use now */
        log_warn("upload-failed base=%s status=%d error=\"%s\"", base, response->status,
                 response->status == 0 ? response->message : "");
        return UPLOAD_UNREACHABLE;
    }
}
