#pragma once
/*
 * limits — every fixed limit, its unit and where the number comes from; no other file has one.
 *
 * "rules" is proto/PROTOCOL.md, section "What the processes owe each other". A number marked
 * (choice) has no measurement behind it: it is a bound that must exist, set generously.
 */
enum {
    /* -- jobs -- */
    LIMIT_JOBS = 2000000, /* queued and running in one broker; more is refused "queue_full" */
    LIMIT_TENANT_SHARE_PERCENT =
        50,                    /* of jobs and bytes that one tenant of several may hold (choice) */
    LIMIT_QUEUE_MIB = 2048,    /* bodies and structures of queued jobs; --queue-mib. rules 8 */
    LIMIT_GRANTS = 16,         /* leases of one job, whether an instance took it or not. rules 2 */
    LIMIT_TRIES = 3,           /* attempts that an instance really took. rules 2 */
    LIMIT_BUCKETS = 1024,      /* distinct requirements (model, size ceiling, features). rules 8 */
    LIMIT_RECENT_MS = 5000,    /* ended jobs stay in memory for a re-commit. rules 3 */
    LIMIT_RECENT_JOBS = 65536, /* and no more of them than this (choice) */
    LIMIT_EXPIRIES_PER_STEP = 256, /* rules 2 */
    LIMIT_RESTORE_CHUNK = 256,     /* jobs of one step of a restore: a batch (choice) */
    LIMIT_RESTORE_LOOK = 20000,    /* and job slots looked at for them (choice) */
    LIMIT_TENANTS = 65536,         /* with live jobs or unpaid virtual time (choice) */
    LIMIT_MODEL_NAMES = 1024,      /* distinct ones seen by one broker (choice) */
    LIMIT_KINDS = 64,              /* sorts of workers that estimates tell apart (choice) */
    LIMIT_AVOID_LOOK = 64, /* jobs looked at behind a head that avoids the worker (choice) */
    LIMIT_OFFER_LOOK = 64, /* free workers compared for the fastest (choice) */
    LIMIT_POSITION_LOOK =
        20000,                /* job slots looked at a second for a gateway's positions (choice) */
    LIMIT_CORE_TICK_MS = 100, /* of the broker's core: how late an expiry may be noticed (choice) */
    LIMIT_GATEWAY_SILENT_MS = 10000, /* no PING this long: the session ends (choice) */

    /* -- what a request may ask -- */
    LIMIT_PROMPT_CHARS = 4000,  /* Unicode code points; the model reads 512 tokens */
    LIMIT_PROMPT_BYTES = 16000, /* the same in UTF-8, at most 4 bytes each */
    LIMIT_SIDE_MIN = 64,
    LIMIT_SIDE_MAX = 2048, /* pixels; above it the model corrupts */
    LIMIT_SIDE_STEP = 16,  /* VAE 8 x patch 2 */
    LIMIT_STEPS = 50,
    LIMIT_IMAGES = 8, /* n */
    LIMIT_METADATA_ITEMS = 16,
    LIMIT_METADATA_BYTES = 2048, /* keys and values */
    LIMIT_METADATA_TEXT = 5120,  /* the same as JSON: quotes and escapes. proto/job.c */
    LIMIT_GUIDANCE = 30,         /* pictures are burnt long before it (choice) */
    LIMIT_QUALITY = 100,         /* jpeg and webp */
    LIMIT_JSON_DEPTH = 8,        /* levels of a request; it needs two (choice) */
    LIMIT_FIELD_ERRORS = 16,     /* mistakes of one request told in its answer (choice) */
    LIMIT_EXPIRES_MIN_S = 10,
    LIMIT_EXPIRES_MAX_S = 86400,
    LIMIT_EXPIRES_DEFAULT_S = 3600,
    LIMIT_HTTP_BODY_BYTES = 64 * 1024,
    LIMIT_IDEMPOTENCY_KEY = 255, /* characters of the header */
    LIMIT_MODEL_NAME = 64,
    LIMIT_TENANT_NAME = 64,
    LIMIT_WORKER_NAME = 64,
    LIMIT_RETENTION_MIN_S = 600,        /* the same when Redis is nearly full. rules 3 */
    LIMIT_RETENTION_LOW_PERCENT = 50,   /* of maxmemory: from here on retention falls ... */
    LIMIT_RETENTION_HIGH_PERCENT = 80,  /* ... down to the least here. rules 3 */
    LIMIT_MEMORY_LOOK_MS = 5000,        /* how often Redis is asked how full it is (choice) */
    LIMIT_RETENTION_MAX_S = 30 * 86400, /* --retention-s (choice) */
    LIMIT_RETENTION_S = 86400,          /* a finished job's record; --retention-s */

    /* -- frames -- */
    LIMIT_FRAME_BYTES = 1024 * 1024,
    LIMIT_ROUTING_ID = 32,
    LIMIT_LIST = 256, /* entries of a list in a frame */
    LIMIT_JOB_BODY_BYTES = 64 * 1024,
    LIMIT_RESULT_BYTES = 16 * 1024,
    LIMIT_REASON_BYTES = 256, /* message of a failed attempt. rules 3 */
    LIMIT_UPLOAD_BASES = 3,   /* rules 6 */
    LIMIT_URL = 256,
    LIMIT_HWM = 10000,                    /* messages queued by ZeroMQ for one peer (choice) */
    LIMIT_LINK_UNSENT = 64 * 1024 * 1024, /* bytes queued by us for one socket (choice) */
    LIMIT_LINK_BEAT_MS = 1000,            /* ZMTP heartbeats. rules 1 */
    LIMIT_LINK_SILENCE_MS = 3000, /* a connection without an answer to them is closed. rules 1 */
    LIMIT_LISTEN_BACKLOG = 1024,  /* connections not yet accepted (choice) */
    LIMIT_LINK_BURST = 256, /* messages received in one turn, so that no peer starves the rest */

    /* -- sessions -- */
    LIMIT_WORKERS = 4096,     /* sessions of workers; 28 KiB of ZeroMQ each */
    LIMIT_GATEWAYS = 64,      /* sessions of gateway reactors: one bit each in a job's watchers */
    LIMIT_WORKER_LEASES = 64, /* of one worker, results not yet acknowledged included */
    LIMIT_MODELS = 16,        /* models of one worker */
    LIMIT_STATE_MS = 1000,    /* between two STATEs of a session. rules 1 */
    LIMIT_SUSPECT_MS = 3000,  /* no STATE this long: no new job; the worker opens a new session */
    LIMIT_RESEND_MS = 2000,   /* a JOB not seen received: sent again, then taken back. rules 1 */
    LIMIT_REPEAT_MS = 1000,   /* DONE, FAIL, CANCEL, WITHDRAW are repeated until answered */
    LIMIT_BEAT_MS = 2000,     /* a worker's heartbeat in Redis. rules 5 */
    LIMIT_SWEEP_MS = 250,     /* redis.md 8: polling beats keyspace notifications */
    LIMIT_SILENCE_BOTH_MS = 6000,   /* beats and STATE silent: evicted. rules 5 */
    LIMIT_SILENCE_STATE_MS = 12000, /* STATE alone silent */
    LIMIT_SILENCE_BEAT_MS = 30000,  /* beats alone silent */
    LIMIT_ADOPT_GRACE_MS = 8000,    /* after a takeover: time for a worker to say HELLO */
    LIMIT_CLOCK_SLIP_MS = 1000, /* Redis TIME against our own clock between two sweeps. rules 5 */

    /* -- Redis -- */
    LIMIT_LEADER_TTL_MS = 1500, /* fail-over 1.0-1.6 s; not below 1 s. redis.md 7 */
    LIMIT_RENEW_MS = 500,
    LIMIT_STANDBY_POLL_MS = 100,
    LIMIT_REDIS_MS = 1000, /* a command not answered in this time ends the connection */
    LIMIT_WAIT_MS = 900,   /* for replicas to confirm a batch; below LIMIT_REDIS_MS. rules 4 */
    LIMIT_STANDBY_GAP_MS =
        300,                  /* between two answers to a standby: its watch begins anew. rules 4 */
    LIMIT_SENTINELS = 8,      /* named in one URL (choice) */
    LIMIT_SENTINEL_NAME = 64, /* characters of a master's name (choice) */
    LIMIT_SENTINEL_MS = 500,  /* one Sentinel not answering by then: the next is asked (choice) */
    LIMIT_SENTINEL_LOOK_MS = 1000, /* how often they are asked who is master while all is well; a
                                      move is known this late (choice) */
    LIMIT_REPLICAS = 8,            /* --redis-wait (choice) */
    LIMIT_RECONNECT_MS = 1000,     /* longest pause between two tries to connect */
    LIMIT_BATCH_OPS = 256,         /* rules 3 */
    LIMIT_BATCH_BYTES = 256 * 1024,
    LIMIT_BATCHES_IN_FLIGHT = 2,
    LIMIT_REBUILD_PAGE = 1000, /* ids a page: 3.4 ms. redis.md 4 */
    LIMIT_TENANT_JOBS = 10000, /* listed by GET /v1/jobs. rules 3 */

    /* -- HTTP -- */
    LIMIT_HTTP_REQUEST_MS = 10000, /* until a request is whole */
    LIMIT_HTTP_IDLE_S = 30,
    LIMIT_HTTP_HEADERS = 16384,     /* bytes */
    LIMIT_HTTP_CONNECTIONS = 32768, /* file descriptors the guard can hold */
    LIMIT_HTTP_SWEEP_MS = 250,      /* how late a deadline may be noticed */
    LIMIT_HTTP_LINGER_MS = 100, /* of a drain: what is already on its way still comes (choice) */
    LIMIT_HTTP_FIRST_MS = 1000, /* of a drain: a new connection's time for its request (choice) */
    LIMIT_HTTP_DEAF_MS = 5,     /* of a drain: a handshake under way ends in it on any LAN; who
                                    begins one then has to wait 1 s for its kernel's next try */
    LIMIT_HTTP_DOOR_MS = 5,     /* of a drain: between two looks who waits at the door (choice) */
    LIMIT_HTTP_HELD_READ = 64 * 1024, /* bytes read ahead of an answer: pipelined requests */
    LIMIT_HTTP_REFUSED_BYTES =
        64 * 1024,                 /* over body_max still read, so that 413 is a problem+json */
    LIMIT_HTTP_READ_RATE = 8,      /* bytes a ms; who reads an answer slower is cut off (choice) */
    LIMIT_HTTP_SPARE_HANDLES = 32, /* libcurl handles kept for reuse (choice) */
    LIMIT_HTTP_READ_BUFFER =
        64 * 1024,                   /* bytes libcurl reads at once; malloc maps no pages for it */
    LIMIT_STREAM_UNSENT = 64 * 1024, /* of one SSE client. rules 7 */
    LIMIT_SSE_COMMENT_MS = 15000,
    LIMIT_WAIT_S = 60,         /* ?wait=N and Prefer: wait=N */
    LIMIT_SUBMITS_HELD = 4096, /* in one gateway reactor during a fail-over. rules 2 */
    LIMIT_SUBMITS_HELD_MIB = 64,
    LIMIT_DRAINS_HELD = 256,     /* questions to drain a worker, in one reactor (choice) */
    LIMIT_SUBMIT_MS = 5000,      /* then 503 and WITHDRAW. rules 2 */
    LIMIT_GATEWAY_THREADS = 32,  /* reactors of one gateway, a session each (choice) */
    LIMIT_LIST_JOBS = 100,       /* of one answer of GET /v1/jobs */
    LIMIT_LIST_SCAN = 1000,      /* records read for it when a filter drops most (choice) */
    LIMIT_STORAGE_RETRY_S = 60,  /* told with 503 storage_full: somebody must make room (choice) */
    LIMIT_RETRY_AFTER_S = 2,     /* told with 503: a fail-over takes 1.0-1.6 s. redis.md 7 */
    LIMIT_STATUS_MS = 200,       /* broker silent: Redis answers. rules 7 */
    LIMIT_STATUS_REUSE_MS = 100, /* rules 7 */
    LIMIT_REASK_MS = 10000,      /* a watched job is asked again. rules 7 */
    LIMIT_PROGRESS_MS = 250,     /* at most 4 a second a job. rules 7 */
    LIMIT_POSITIONS_MS = 1000,   /* one frame of positions a gateway. rules 7 */

    /* -- pictures -- */
    LIMIT_PICTURE_BYTES = 32 * 1024 * 1024, /* 2048 x 2048 RGBA is 16 MiB raw */
    LIMIT_UPLOADS_PARALLEL = 16,   /* bodies in flight; whole bodies are in memory. rules 10 */
    LIMIT_GRANT_MS = 900000,       /* an upload grant; an expired one is granted again */
    LIMIT_HELD_RESULTS = 16,       /* a worker at it stops pulling. rules 6 */
    LIMIT_HELD_RESULT_MS = 600000, /* then FAIL(storage). rules 6 */
    LIMIT_PICTURE_GRACE_S = 600,   /* a picture outlives its job's record by this. rules 6 */
    LIMIT_STORE_FREE_MIB = 1024,   /* less free, or under 5 %: submits are answered storage_full */
    LIMIT_UNIFORM_SPREAD = 2,      /* of a channel: one colour. rules 6 */
    LIMIT_STORE_FREE_PERCENT = 5,
    LIMIT_STORE_LOOK_MS = 5000, /* between two looks at the free space (choice) */
    LIMIT_SWEEP_FILES_MS = 3600000,
    LIMIT_SWEEP_FIRST_MS = 60000, /* after the start: gateways that live short sweep too (choice) */
    LIMIT_SWEEP_SLICE = 256,      /* files in one turn, below 50 ms. rules 10 */
    LIMIT_TEMPORARY_FILE_S = 3600, /* an upload takes seconds: older is left by a killed writer */
    LIMIT_SHARD_AGE_S = 3600,      /* an empty shard whose hour ended this long ago is removed */

    /* -- instances -- */
    LIMIT_INSTANCES = 16,     /* of one agent (choice) */
    LIMIT_PLACE_JOBS = 3,     /* at an instance: one encoded and fetched, one drawn, one ahead */
    LIMIT_STUCK_STEPS = 10,   /* times the usual step without one: the attempt fails. rules 2 */
    LIMIT_STUCK_MS = 60000,   /* and at least this; --stuck-ms for tests */
    LIMIT_OPAQUE_MS = 600000, /* the same for instances that tell no steps; --opaque-ms */
    LIMIT_PROBE_MS = 1000,    /* between two health checks */
    LIMIT_PROBE_ANSWER_MS = 3000, /* a health check not answered by then failed (choice) */
    LIMIT_PROBES_FAILED = 3,      /* in a row: the instance is taken to be gone (choice) */
    LIMIT_ERROR_STREAK = 3,       /* jobs failed in a row: the instance is taken out (choice) */
    LIMIT_STARTUP_MS = 600000,    /* until ready, and for the first job: compiling takes 110 s */
    LIMIT_PORT_MS = 60000,        /* until the port must be free. rules 9 */
    LIMIT_KILL_MS = 30000,        /* SIGKILLed and still there: said, and given up. rules 9 */
    LIMIT_CLEAN_MS = 5000,        /* waited at start for what an earlier agent left (choice) */
    LIMIT_INSTANCE_POLL_S = 10,   /* one long poll of a job's state (choice) */
    LIMIT_INSTANCE_ANSWER_MS = 10000, /* any other answer of an instance (choice) */
    LIMIT_INSTANCE_STATE = 65536,     /* bytes of JSON in an answer */
    LIMIT_INSTANCE_DRAW_MS =
        3600000, /* an answer that is the picture; LIMIT_OPAQUE_MS ends it first */
    LIMIT_INSTANCE_CONFIG =
        4 * 1024 * 1024, /* bytes of JSON in which a server describes itself (choice) */
    LIMIT_INSTANCE_BASE64 =
        44 * 1024 * 1024,          /* LIMIT_PICTURE_BYTES in base64, and a record of it */
    LIMIT_INSTANCE_PATH = 1536,    /* of a request to an instance; file names in escapes (choice) */
    LIMIT_INSTANCE_LOOK_MS = 250,  /* between two questions how far a drawing is (choice) */
    LIMIT_INSTANCE_TAKEN_MS = 250, /* a drawing not refused by then is under way (choice) */
    LIMIT_ATTACH_WORD = 128,       /* bytes of a word's value in --attach (choice) */
    LIMIT_ATTACH_PATH = 1024,      /* of a file in it (choice) */
    LIMIT_WORKFLOW = 1024 * 1024,  /* bytes of a ComfyUI workflow (choice) */
    LIMIT_GRADIO_ARGUMENTS = 64,   /* of the endpoint of a Gradio app (choice) */
    LIMIT_INSTANCE_LOG = 10 * 1024 * 1024, /* bytes of a log file; one older one is kept */
    LIMIT_INSTANCE_COMMAND = 4096,         /* --start with its words replaced */
    LIMIT_PNG_CHUNK =
        1024 * 1024, /* bytes of one piece of text or colour profile in a PNG (choice) */
    LIMIT_PNG_CHUNKS = 4 * 1024 * 1024, /* and of all of them */
    LIMIT_STOP_MS = 10000,              /* SIGTERM to SIGKILL of an instance. rules 9 */
    LIMIT_RESTART_MIN_MS = 500,
    LIMIT_RESTART_MAX_MS = 30000,
    LIMIT_INSTANCE_QUEUE = 1024,  /* largest --queue of the simulated instance (choice) */
    LIMIT_INSTANCE_JOB_ID = 64,   /* characters */
    LIMIT_INSTANCE_JOBS = 64,     /* finished jobs that it keeps; the oldest goes */
    LIMIT_INSTANCE_MIB = 256,     /* and no more bytes of pictures than this */
    LIMIT_INSTANCE_WAIT_S = 30,   /* a long poll */
    LIMIT_INSTANCE_GUIDANCE = 20, /* largest `guidance` (choice) */
    LIMIT_INSTANCE_POLLS = 256,   /* long polls held at once; more are answered at once (choice) */
    LIMIT_CRASHES = 5, /* in LIMIT_CRASH_WINDOW_MS: crash loop, the instance stays down */
    LIMIT_CRASH_WINDOW_MS = 60000,

    /* -- agent -- */
    LIMIT_LEADER_POLL_MS = 100, /* reads of the leader key while there is no session: a fail-over is
                                   1.0-1.6 s, this adds a tenth of it */
    LIMIT_LEADER_POLL_MAX_MS = 1000, /* after ten seconds without one */
    LIMIT_QUIET_MS = 1500,           /* nothing heard, one STATE missed: the leader key is read */
    LIMIT_HELLO_MS = 100,            /* between two HELLOs on one socket (choice) */
    LIMIT_PLACE_WAIT_MS =
        5000,                /* a JOB whose promised place is gone is handed back then (choice) */
    LIMIT_AHEAD_MS = 250,    /* before the end of a drawing the next job is asked for: a commit, two
                                round trips of 50 ms, and a step in which its text is encoded */
    LIMIT_UPLOAD_MS = 30000, /* one PUT: LIMIT_PICTURE_BYTES at 10 Mbit/s */
    LIMIT_UPLOAD_RETRY_MS = 250,      /* after all bases failed, doubling to ... */
    LIMIT_UPLOAD_RETRY_MAX_MS = 5000, /* ... this (choice) */
    LIMIT_LEAVE_MS = 2000,            /* from the last FAIL to its ACK when leaving (choice) */
    LIMIT_FAREWELL_MS = 20,           /* the same for a broker's last frames (choice) */
    LIMIT_BYE_MS = 200,               /* ZeroMQ's thread writes the BYE (choice) */
    LIMIT_FACTS_BYTES = 8192,         /* of a beat: what Redis keeps for each worker (choice) */

    /* -- command line -- */
    LIMIT_TICK_MS = 100,  /* between two looks at Ctrl-C, and two frames of a bar (choice) */
    LIMIT_ASK_MS = 15000, /* one question to a server; it holds a submit LIMIT_SUBMIT_MS */
    LIMIT_SERVER_CONNECT_MS = 5000, /* until a server took the connection (choice) */
    LIMIT_SERVER_AWAY_MS =
        30000,                /* a server that answered before is asked again this long (choice) */
    LIMIT_ASK_AGAIN_MS = 200, /* doubling to ... */
    LIMIT_ASK_AGAIN_MAX_MS = 2000, /* ... this (choice) */
    LIMIT_DRAIN_LOOK_MS = 500,     /* between two looks whether a worker has left (choice) */
    LIMIT_DRAIN_AGAIN_MS = 5000,   /* a worker that beats and does not say that it drains is told
                                      again: two beats and a half */
    LIMIT_STREAM_QUIET_MS = 35000, /* an event stream without a byte: two comments were missed */
    LIMIT_STREAM_EVENT =
        256 * 1024,             /* bytes of one event: a prompt in escapes is 96 KiB (choice) */
    LIMIT_UP_WORKERS = 16,      /* agents of one `drawbar up` (choice) */
    LIMIT_UP_READY_MS = 120000, /* until a child is ready: Redis reads its file first (choice) */
    LIMIT_UP_LATE_MS = 5000,    /* a start that takes longer is told (choice) */
    LIMIT_UP_STEADY_MS = 60000, /* a child that lived this long is started again at once (choice) */
    LIMIT_UP_GUEST_MS = 3000,   /* the command of --once cancels its job (choice) */
    LIMIT_UP_STOP_MS = 35000,   /* SIGTERM to SIGKILL of a child: it drains LIMIT_DRAIN_MS */

    /* -- the rest -- */
    LIMIT_LOG_LINE = 2048,
    LIMIT_HELPER_QUEUE = 256,
    LIMIT_DRAIN_MS = 30000,         /* SIGTERM to the end of an orderly stop */
    LIMIT_GATEWAY_OPEN_MS = 1000,   /* of a start: Redis may take so long; then clients hear 503 */
    LIMIT_GATEWAY_LINGER_MS = 1000, /* --linger-ms: load balancers look that often (choice) */
    LIMIT_GATEWAY_LINGER_MAX_MS = 60000, /* of it (choice) */
};

_Static_assert(LIMIT_SUSPECT_MS >= 3 * LIMIT_STATE_MS, "two lost STATEs never make a peer suspect");
_Static_assert(LIMIT_SILENCE_BOTH_MS >= 3 * LIMIT_BEAT_MS, "two lost beats never evict");
_Static_assert(LIMIT_LEADER_TTL_MS >= 3 * LIMIT_RENEW_MS,
               "two lost renewals never depose a leader");
_Static_assert((int)LIMIT_WAIT_MS < (int)LIMIT_REDIS_MS, "a short WAIT is an answer, no lost one");
_Static_assert((int)LIMIT_WAIT_MS + (int)LIMIT_STANDBY_POLL_MS < (int)LIMIT_LEADER_TTL_MS,
               "an election that waits for a replica is asked again before it runs out");
_Static_assert(LIMIT_STREAM_QUIET_MS > 2 * LIMIT_SSE_COMMENT_MS, "one lost comment ends no stream");
_Static_assert(LIMIT_UP_STOP_MS > LIMIT_DRAIN_MS, "a child that drains in time is never killed");
_Static_assert(LIMIT_DRAIN_AGAIN_MS > 2 * LIMIT_BEAT_MS, "one lost beat tells no drain again");
_Static_assert(LIMIT_GATEWAYS <= 64, "a job's watchers are 64 bits");
