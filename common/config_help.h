#pragma once
/*
 * config_help — what config prints for people: the page of --help and a guess at a misspelt name.
 */
#include "common/config.h"

/* Prints the page to standard output; the targets still hold the defaults. */
void config_help_print(const struct program *program, const struct option *common, size_t n_common);
/* How many letters must be changed, added or taken away to make b from a; at most `give_up`. */
uint32_t config_help_distance(const char *a, const char *b, uint32_t give_up);
