#pragma once
/*
 * banner — what `drawbar up` tells when all is up: where, what, how to try it, how to stop it.
 */
#include "cli/plan.h"
#include "cli/terminal.h"

/* `drawbar` is how the user called us; NULL: nobody has the time to try anything. */
void banner_print(const struct plan *plan, const struct terminal *terminal, const char *drawbar);
/* The line to paste on the next host, and what it means; only with --listen. */
void banner_hosts_print(const struct plan *plan, const struct terminal *terminal);
