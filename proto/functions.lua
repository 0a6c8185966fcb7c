#!lua name=drawbar1
-- Drawbar's Redis functions: one fenced writer, batched. What each takes and answers: PROTOCOL.md,
-- "Redis". Every function that writes jobs compares the epoch token first: a deposed leader is FENCED.

local P = '{drawbar}:'
local EPOCH, LEADER, LIVE, META = P .. 'epoch', P .. 'leader', P .. 'live', P .. 'meta'
local BEATS, WORKERS, SECRET = P .. 'hb', P .. 'w', P .. 'secret'
local JOB, REASON, TENANT, IDEM = P .. 'j:', P .. 'a:', P .. 't:', P .. 'i:'

local TENANT_JOBS = 10000   -- newest ids a tenant can list
local REASONS = 16          -- failed attempts kept a job: no more leases than that
local WORKER_FORGOTTEN_MS = 86400000

local STATE_AT, REVISION_AT, HEADER = 3, 13, 64 -- 1-based places in a record
local SUCCEEDED = 3                             -- this state and above are final

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- ---- leadership ----

-- A candidate who has not watched the key for a whole term is elected only where the last leader
-- resigned, or, if it is new and never heard of a leader, where nobody led before: else the leader may
-- be alive, and its key only expired while Redis was away, or was lost with all that Redis had.
local function elect(_, args)
  local nonce, ttl, random, standing = args[1], args[2], args[3], args[5]
  local holder = redis.call('GET', LEADER)
  if holder and string.sub(holder, 1, #nonce + 1) ~= nonce .. ' ' then
    return { 0, holder }
  end
  local token = redis.call('GET', EPOCH)
  if holder then -- the reply of our own election was lost, or no replica had it yet; it counts
    redis.call('PEXPIRE', LEADER, ttl)
  elseif standing ~= 'steady' and not (standing == 'new' and not token) and
    not (token and redis.call('HGET', META, 'resigned') == token) then
    return { 0, '' }
  else
    local number = token and tonumber(string.match(token, '^%d+')) or 0
    token = string.format('%d:%s', number + 1, random)
    redis.call('SET', EPOCH, token)
    redis.call('HSET', META, 'last', 0)
    redis.call('HDEL', META, 'r0', 'r1', 'r2', 'r3')
    redis.call('SET', LEADER, nonce .. ' ' .. (number + 1) .. ' - -', 'PX', ttl)
  end
  redis.call('SET', SECRET, args[4], 'NX')
  return { 1, token, redis.call('HGET', META, 'sequence') or '0', redis.call('GET', SECRET) }
end

local function renew(_, args)
  local token, ttl, nonce, gateways, workers = args[1], args[2], args[3], args[4], args[5]
  local epoch = redis.call('GET', EPOCH)
  if epoch ~= token then
    return { 0, epoch or '' }
  end
  local number = string.match(token, '^%d+')
  redis.call('SET', LEADER, table.concat({ nonce, number, gateways, workers }, ' '), 'PX', ttl)
  return { 1, now_ms() }
end

local function resign(_, args)
  if redis.call('GET', EPOCH) == args[1] then
    redis.call('HSET', META, 'resigned', args[1])
    redis.call('DEL', LEADER)
  end
  return { 1 }
end

-- ---- commits ----

local function reason_add(id, reason)
  if reason ~= '' then
    redis.call('RPUSH', REASON .. id, reason)
    redis.call('LTRIM', REASON .. id, -REASONS, -1)
  end
end

local function record_put(id, score, sequence, tenant, record)
  redis.call('SET', JOB .. id, record)
  redis.call('ZADD', LIVE, score, id)
  redis.call('ZADD', TENANT .. tenant, sequence, id)
  if tonumber(sequence) % 256 == 0 then
    redis.call('ZREMRANGEBYRANK', TENANT .. tenant, 0, -TENANT_JOBS - 1)
  end
end

-- Each op takes the arguments from place i on, and returns a letter, how many it took, an extra.
local ops = {}
local highest -- sequence submitted in this batch; sequences rise

ops.S = function(args, i)
  local id, idem = args[i], args[i + 4]
  if redis.call('EXISTS', JOB .. id) == 1 then
    return 'E', 7
  end
  if idem ~= '' then
    local first = redis.call('SET', IDEM .. idem, args[i + 5], 'NX', 'GET')
    if first then
      return 'K', 7, first
    end
  end
  record_put(id, args[i + 1], args[i + 2], args[i + 3], args[i + 6])
  highest = args[i + 2]
  return '+', 7
end

local function live_header(id)
  local header = redis.call('GETRANGE', JOB .. id, 0, HEADER - 1)
  if #header < HEADER or string.byte(header, STATE_AT) >= SUCCEEDED then
    return nil
  end
  return header
end

ops.T = function(args, i)
  local id = args[i]
  if not live_header(id) then
    return '-', 3
  end
  redis.call('SETRANGE', JOB .. id, 0, args[i + 1])
  reason_add(id, args[i + 2])
  return '+', 3
end

ops.F = function(args, i)
  local id, ttl, idem = args[i], args[i + 2], args[i + 3]
  if not live_header(id) then
    return '-', 5
  end
  redis.call('SET', JOB .. id, args[i + 1], 'EX', ttl)
  redis.call('ZREM', LIVE, id)
  reason_add(id, args[i + 4])
  redis.call('EXPIRE', REASON .. id, ttl)
  if idem ~= '' then
    redis.call('EXPIRE', IDEM .. idem, ttl)
  end
  return '+', 5
end

-- Only over an absent record or a lower revision: after a restart of Redis that lost its tail.
ops.R = function(args, i)
  local id, record = args[i], args[i + 6]
  local header = redis.call('GETRANGE', JOB .. id, 0, HEADER - 1)
  if #header == HEADER and
    struct.unpack('<I4', header, REVISION_AT) >= struct.unpack('<I4', record, REVISION_AT) then
    return '-', 7
  end
  if args[i + 4] ~= '' then
    redis.call('SET', IDEM .. args[i + 4], args[i + 5], 'NX')
  end
  record_put(id, args[i + 1], args[i + 2], args[i + 3], record)
  return '+', 7
end

-- The same for a job that has ended.
ops.E = function(args, i)
  local id, idem, record, ttl = args[i], args[i + 4], args[i + 6], args[i + 7]
  local header = redis.call('GETRANGE', JOB .. id, 0, HEADER - 1)
  if #header == HEADER and
    struct.unpack('<I4', header, REVISION_AT) >= struct.unpack('<I4', record, REVISION_AT) then
    return '-', 8
  end
  redis.call('SET', JOB .. id, record, 'EX', ttl)
  redis.call('ZREM', LIVE, id)
  redis.call('ZADD', TENANT .. args[i + 3], args[i + 2], id) -- its submit may be lost as well
  if idem ~= '' then
    redis.call('SET', IDEM .. idem, args[i + 5], 'NX')
    redis.call('EXPIRE', IDEM .. idem, ttl)
  end
  return '+', 8
end

-- Evicted: no longer swept, still listed. Left for good: not listed either.
ops.W = function(args, i)
  redis.call('ZREM', BEATS, args[i])
  if args[i + 1] == 'left' then
    redis.call('HDEL', WORKERS, args[i])
  end
  return '+', 2
end

ops.N = function()
  return '+', 0
end

local function commit(_, args)
  local token, n = args[1], tonumber(args[2])
  if redis.call('GET', EPOCH) ~= token then
    return { 'FENCED' }
  end
  local last = tonumber(redis.call('HGET', META, 'last') or '0')
  if n > last + 1 then
    return { 'GAP', last }
  end
  local slot = 'r' .. n % 4
  if n <= last then -- sent again after a lost reply: what it answered then
    redis.call('HSET', META, 'last', last) -- a write of this connection, for a WAIT behind it
    return cmsgpack.unpack(redis.call('HGET', META, slot))
  end
  local letters, answer, i = {}, { 'OK', '' }, 3
  highest = nil
  while i <= #args do
    local letter, took, extra = ops[args[i]](args, i + 1)
    letters[#letters + 1] = letter
    answer[#answer + 1] = extra
    i = i + 1 + took
  end
  answer[2] = table.concat(letters)
  redis.call('HSET', META, 'last', n, slot, cmsgpack.pack(answer))
  if highest then
    redis.call('HSET', META, 'sequence', highest)
  end
  return answer
end

local function read(_, args)
  if redis.call('GET', EPOCH) ~= args[1] then
    return { 'FENCED' }
  end
  local answer = { 'OK' }
  for i = 2, #args do
    answer[i] = redis.call('GET', JOB .. args[i]) or ''
  end
  return answer
end

-- ---- workers ----

local function beat(_, args)
  local worker, incarnation, facts = args[1], args[2], args[3]
  local now = now_ms()
  if incarnation == '' then
    local counter = redis.call('HINCRBY', META, 'incarnation', 1)
    incarnation = string.format('%08x%08x', counter, redis.call('TIME')[2] * 4093 % 4294967296)
  else
    local known = redis.call('HGET', WORKERS, worker)
    if known and string.sub(known, 1, 16) > incarnation then
      return { 0, string.sub(known, 1, 16) }
    end
  end
  redis.call('ZADD', BEATS, now, worker)
  redis.call('HSET', WORKERS, worker, incarnation .. ' ' .. facts)
  return { now, incarnation }
end

local function sweep(_, args)
  if redis.call('GET', EPOCH) ~= args[1] then
    return { 'FENCED' }
  end
  local now = now_ms()
  local quiet = redis.call('ZRANGE', BEATS, '-inf', now - args[2], 'BYSCORE', 'WITHSCORES')
  for i = 1, #quiet, 2 do
    if tonumber(quiet[i + 1]) < now - WORKER_FORGOTTEN_MS then
      redis.call('ZREM', BEATS, quiet[i])
      redis.call('HDEL', WORKERS, quiet[i])
    end
  end
  return { 'OK', now, quiet }
end

local function store(_, args)
  redis.call('HSETNX', META, 'store', args[1])
  return redis.call('HGET', META, 'store')
end

-- Everything but submits must go on when memory is full: jobs can end, leaders and workers stay.
local function register(name, callback, flag)
  redis.register_function { function_name = 'drawbar1_' .. name, callback = callback, flags = { flag } }
end

register('elect', elect, 'allow-oom')
register('renew', renew, 'allow-oom')
register('resign', resign, 'allow-oom')
register('commit_end', commit, 'allow-oom')
register('beat', beat, 'allow-oom')
register('sweep', sweep, 'allow-oom')
register('store', store, 'allow-oom')
register('commit', commit)
register('read', read, 'no-writes')
