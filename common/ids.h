#pragma once
/*
 * ids — random numbers and job ids.
 *
 * A job id is 128 bits: 48 bits of Unix milliseconds (so ids sort by time of submit), then 80
 * random bits (so they cannot be guessed). As text it is 26 characters of Crockford base 32
 * (0-9 A-Z without I L O U; upper case is what we print, lower case is accepted).
 */
#include <stdbool.h>
#include <stdint.h>

enum { JOB_ID_BYTES = 16, JOB_ID_TEXT = 26 };

struct job_id {
    uint8_t bytes[JOB_ID_BYTES];
};

/* Fills n bytes from the kernel's generator; aborts if there is none. */
void random_fill(void *out, unsigned long n);
/* A random number that is never 0. */
uint64_t random_u64(void);
/* A new job id minted at wall_ms. */
struct job_id job_id_mint(int64_t wall_ms);
/* Writes 26 characters and a NUL. */
void job_id_print(const struct job_id *id, char out[JOB_ID_TEXT + 1]);
/* Reads exactly 26 characters (the caller knows the length). False: not a job id, *out untouched.
 */
bool job_id_parse(const char *text, unsigned long length, struct job_id *out);
bool job_id_equal(const struct job_id *a, const struct job_id *b);
/* Unix milliseconds held in the id. */
int64_t job_id_ms(const struct job_id *id);
