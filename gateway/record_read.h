#pragma once
/*
 * record_read — fills an interest's view from Redis; private to lookups.
 *
 * While `reading` is set the interest stays where it is: the answers come to it. At the end, which
 * may be before these calls return, `reading` is clear and reader->read_end is called once.
 */
#include "gateway/interest.h"

/* The record, the end of its life and the failed attempts. */
void record_read(struct interest *interest);
/* The failed attempts alone: what the broker's word on a FAILED job lacks. */
void record_read_attempts(struct interest *interest);
