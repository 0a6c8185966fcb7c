#pragma once
/*
 * native — Drawbar's own API: /v1/jobs and what belongs to it, /healthz, /readyz.
 */
#include "gateway/routes.h"

struct buffer;
struct fleet_worker;

extern const struct face native_face;

/* The parts, each in a file of its name. */
void native_submit(const struct route_call *call);  /* POST /v1/jobs */
void native_status(const struct route_call *call);  /* GET /v1/jobs/{id}[?wait=N] */
void native_cancel(const struct route_call *call);  /* DELETE /v1/jobs/{id} */
void native_events(const struct route_call *call);  /* GET /v1/jobs/{id}/events */
void native_images(const struct route_call *call);  /* GET /v1/jobs/{id}/images */
void native_picture(const struct route_call *call); /* GET /v1/jobs/{id}/images/{i} */
void native_list(const struct route_call *call);    /* GET /v1/jobs */
void native_workers(const struct route_call *call); /* GET /v1/workers */
void native_drain(const struct route_call *call);   /* POST /v1/workers/{name}/drain */
void native_models(const struct route_call *call);  /* GET /v1/models */
void native_health(const struct route_call *call);  /* GET /healthz */
void native_ready(const struct route_call *call);   /* GET /readyz */

/* Answers with the job as JSON, or with the problem that `verdict` names; ends the exchange. */
void native_answer_job(struct gate *gate, struct http_exchange *exchange, int status,
                       enum lookup_verdict verdict, const struct job_view *view);
/* Writes a worker as /v1/workers lists it; `told`: it was told to drain, whatever it says yet. */
void native_worker_write(struct buffer *out, const struct fleet_worker *worker, bool told);
/* Answers a verdict other than LOOKUP_FOUND; ends the exchange. */
void native_answer_missing(struct http_exchange *exchange, enum lookup_verdict verdict);
