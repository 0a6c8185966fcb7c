#pragma once
/*
 * copy — the input of a fuzzer in a block of its very size, so that ASan sees one byte too far.
 */
#include <stddef.h>
#include <stdint.h>

/* The two parts one behind the other. Never NULL; the caller's, for copy_free(). */
uint8_t *copy_of(const void *first, size_t n_first, const void *second, size_t n_second);
void copy_free(uint8_t **copy_p); /* for CLEANUP */
