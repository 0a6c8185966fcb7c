#pragma once
/*
 * sim_order — reads the JSON of POST /v1/jobs; every mistake is named.
 */
#include "worker/instance/sim_jobs.h"
#include <jansson.h>

struct sim_complaint {
    int status;       /* 400: not a JSON object; 422: a field */
    const char *code; /* "bad_json", "bad_field" */
    char field[32];   /* "": none */
    char message[192];
};

/* Parses length bytes. True: *order is filled, its strings live as long as *document, which the
 * caller gives back with json_decref(). False: *complaint says why, *document is NULL. */
bool sim_order_read(const char *bytes, size_t length, struct sim_order *order, json_t **document,
                    struct sim_complaint *complaint);
/* 1 to LIMIT_INSTANCE_JOB_ID characters of [A-Za-z0-9._-]. */
bool sim_job_id_is_good(const char *id);
