#pragma once
/*
 * clock — the only two clocks of the programs. Cores read neither: time comes in as an argument.
 *
 * Intervals are measured with clock_mono_ms(); clock_wall_ms() is for log lines and for minting
 * job ids only. Times that several hosts must agree on are Redis TIME (see PROTOCOL.md).
 */
#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC; never goes back. */
int64_t clock_mono_ms(void);
/* Microseconds of CLOCK_MONOTONIC; never goes back. */
int64_t clock_mono_us(void);
/* Milliseconds since 1970 by this host's wall clock; may jump. */
int64_t clock_wall_ms(void);
