#pragma once
/*
 * retention — how long an ended job's record is kept, as Redis fills up.
 *
 *     full ----------.                          used memory
 *                     `.
 *     LIMIT_RETENTION_MIN_S ---------
 *            0      50 %   80 %     of maxmemory
 */
#include <stdint.h>

/* Seconds for `full_s` asked by the operator. max_bytes 0: Redis has no limit, always full_s. */
uint32_t retention_s(uint32_t full_s, uint64_t used_bytes, uint64_t max_bytes);
