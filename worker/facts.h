#pragma once
/*
 * facts — what a beat tells about this worker, as one JSON object, for people and dashboards:
 * {"version","pid","host","models":[...],"instances":[{...}],"places","running","held_results"} and
 * "gpus":[{...}] if there are any; members that NVML does not tell are left out.
 */
#include "worker/agent.h"
#include "worker/capability.h"
#include "worker/instance.h"

/* Writes at most LIMIT_FACTS_BYTES with the NUL; instances that do not fit are left out, from the
 * last, then GPUs. */
void facts_write(char out[LIMIT_FACTS_BYTES], const struct agent *agent,
                 const struct capability *capability, const struct supervisor *supervisor);
