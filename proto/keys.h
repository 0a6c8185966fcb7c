#pragma once
/*
 * keys — every Redis key and function of Drawbar. What they hold: PROTOCOL.md, "Redis".
 */
#define KEY_PREFIX "{drawbar}:"
#define KEY_EPOCH  KEY_PREFIX "epoch" /* string "<number>:<random>" */
#define KEY_LEADER                                                                                 \
    KEY_PREFIX "leader"              /* string, PX: "<nonce> <epoch number> <gateways> <workers>" */
#define KEY_LIVE   KEY_PREFIX "live" /* ZSET of job ids that have not ended */
#define KEY_JOB    KEY_PREFIX "j:"   /* + id: string, the record */
#define KEY_REASON KEY_PREFIX "a:"   /* + id: list of failed attempts (JSON) */
#define KEY_TENANT KEY_PREFIX "t:"   /* + tenant: ZSET id -> sequence */
#define KEY_IDEM   KEY_PREFIX "i:"   /* + hash: string "<id><body hash hex>" */
#define KEY_BEATS  KEY_PREFIX "hb"   /* ZSET worker -> last beat, Redis TIME ms */
#define KEY_WORKER KEY_PREFIX "w"    /* hash worker -> "<incarnation hex> <facts JSON>" */
#define KEY_SECRET KEY_PREFIX "secret" /* string, 64 hex digits: the upload key */
#define KEY_META   KEY_PREFIX "meta"   /* hash: store, sequence, last, incarnation ... */

#define FUNCTION_LIBRARY "drawbar1"
#define FUNCTION_ELECT   "drawbar1_elect"
#define FUNCTION_RENEW   "drawbar1_renew"
#define FUNCTION_RESIGN  "drawbar1_resign"
#define FUNCTION_COMMIT  "drawbar1_commit"
#define FUNCTION_END     "drawbar1_commit_end"
#define FUNCTION_READ    "drawbar1_read"
#define FUNCTION_BEAT    "drawbar1_beat"
#define FUNCTION_SWEEP   "drawbar1_sweep"
#define FUNCTION_STORE   "drawbar1_store"
