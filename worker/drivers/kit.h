#pragma once
/*
 * kit — what the drivers of other people's servers share: asking, reporting, and one job's order.
 *
 * These servers are asked for one picture at a time, n times, with the seeds seed + i mod 2^32: so
 * that each picture has a seed that was asked for, an answer stays bounded and a lost one costs one
 * picture. Steps are told of the whole job: half of the second of two pictures is 3/4 of the steps.
 *
 * A driver holds `struct kit` as its first member. Rules for it, besides those of driver.h:
 *  - after each kit_taken, kit_step and kit_picture it looks at `interrupted`: the host may have
 *    asked to stop inside, and then nothing but on_free is reported;
 *  - kit_fail, kit_made_all and kit_free are the last thing it does;
 *  - what is left to do after an interrupt that came while no request was under way is done by
 *    `on_pause`, from the loop.
 */
#include "worker/drivers/driver.h"
#include <jansson.h>

enum {
    KIT_URL_BYTES = LIMIT_URL + LIMIT_INSTANCE_PATH,
    KIT_TEXT = 160, /* a message of a server, cut */
};

/* A request and the body it sends. */
struct kit_ask {
    struct http_call *call; /* NULL: none under way */
    char *body;
};

/* What is asked for, kept for the time of a job. */
struct kit_order {
    json_t *prompt, *negative; /* strings; negative: NULL if there is none */
    uint32_t width, height, steps, n, seed;
    double guidance; /* 0: off */
};

struct kit {
    const struct driver_host *host;
    struct timer *pause; /* on_pause */
    struct kit_ask probe, main, side;
    struct kit_order order;
    uint32_t made; /* pictures reported */
    bool drawing;
    bool taken;       /* reported */
    bool interrupted; /* no report but on_free follows */
};

struct kit_request {
    const char *method; /* "GET" or "POST" */
    const char *path;   /* after the server's URL */
    json_t *body;       /* taken over; NULL: none */
    int64_t limit_ms;
    size_t response_max;
    void (*on_bytes)(void *context, const void *bytes, size_t length); /* http_client.h */
};

int kit_open(struct kit *self, const struct driver_host *host, reactor_fn on_pause); /* 0, -errno */
/* Drops what is under way and frees what the kit holds, not the driver. */
void kit_close(struct kit *self);
/* For drivers that hold nothing else: the table's open for a driver of `size` bytes, its close, its
 * probe_cancel. */
int kit_driver_open(void **out, size_t size, const struct driver_host *host, reactor_fn on_pause);
void kit_driver_close(void **self_p);
void kit_driver_probe_cancel(void *self);
/* Copies the order. 0, or -EINVAL: the prompt is not UTF-8. */
int kit_begin(struct kit *self, const struct draw_request *request);
/* Sends the request; fn gets `self` and calls kit_over first. */
void kit_ask(struct kit *self, struct kit_ask *ask, const struct kit_request *request,
             http_response_fn fn);
void kit_over(struct kit_ask *ask);   /* it is answered */
void kit_cancel(struct kit_ask *ask); /* it is dropped; fine when there is none */
/* A GET for a probe, with its limits. */
void kit_look(struct kit *self, const char *path, size_t response_max, http_response_fn fn);
/* Reports a health whose message says why the probe's answer is no good. */
void kit_unhealthy(struct kit *self, const char *path, const struct http_response *response);

/* -- the order in the server's words -- */
uint32_t kit_seed(const struct kit *self); /* of the next picture */
/* Guidance where 1 is off: A1111, stable-diffusion.cpp, ComfyUI. */
double kit_guidance_from_one(const struct kit *self);

/* -- reports -- */
void kit_waiting(struct kit *self); /* behind the jobs of others; not after kit_taken */
void kit_taken(struct kit *self);   /* once a job; later calls do nothing */
/* `part` 0..1 of the present picture is drawn. */
void kit_step(struct kit *self, double part);
/* The next picture; bytes are copied. True: another one is to be drawn, go on. */
bool kit_picture(struct kit *self, const void *bytes, size_t length);
/* The same from base64, strict; "data:...;base64," before it is skipped. If it is none *failed is
 * set, kit_fail was called and false is returned. */
bool kit_picture_base64(struct kit *self, const json_t *text, bool *failed);
/* After the last picture: on_drawn, on_free. */
void kit_made_all(struct kit *self);
/* on_failed and on_free: the server does nothing any more. After an interrupt: on_free alone. */
void kit_fail(struct kit *self, const struct failure *failure);
void kit_free(struct kit *self); /* on_free */

/* -- failures, all by kit_fail -- */
/* A request without an answer: the server died with the job. */
void kit_fail_lost(struct kit *self, const struct http_response *response, const char *doing);
/* The same for a server that may live, and draw on: on_failed alone. From here on it is as after an
 * interrupt: only kit_free is missing. */
void kit_report_lost(struct kit *self, const struct http_response *response, const char *doing);
/* A refusal by status. blames_request: 400, 413 and 422 are the request's fault, final. */
void kit_fail_status(struct kit *self, const struct http_response *response, bool blames_request);
/* The server's answer is nonsense, or tells an error: another instance may do better. */
void kit_fail_error(struct kit *self, const char *message);

/* -- JSON from a server: not trusted -- */
/* NULL: none; else the caller's. With an integer over 63 bits all of its integers are reals. */
json_t *kit_json(const struct http_response *response);
void kit_json_free(json_t **json_p);
/* A text cut to the size and printable, "" if it is none. */
void kit_text(const json_t *value, char *out, size_t size);
/* The reason in an error answer, or its first characters. */
void kit_reason(const struct http_response *response, char *out, size_t size);
/* Appends percent-encoded text; false: it does not fit. */
bool kit_escape(char *out, size_t size, const char *text);
