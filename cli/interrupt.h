#pragma once
/*
 * interrupt — Ctrl-C and SIGTERM for the commands that follow a job.
 *
 * The first one is only noticed; one that comes half a second or more later ends the process. (A
 * terminal and a parent may both send the same Ctrl-C.)
 */
#include <stdbool.h>

void interrupt_watch(void);
bool interrupt_came(void);
