"""The Lua that counts inside Redis. Each script is one round trip and runs alone, by the server's clock.

Per scope (key, tenant) there is a hash and a sorted set. The hash holds the two buckets (`rl`, `ra`: level of
requests, as of; `tl`, `ta`: tokens) and the day (`ds`, `du`: start, used). The set holds the leases, by the time
they end. Times are microseconds. The server's clock may step: back, and nothing is refilled for once; forward,
and a bucket gets full once, which is all that it can get.
"""

from __future__ import annotations

from typing import Final

_COMMON: Final = """
local stamp = redis.call('TIME')
local now = tonumber(stamp[1]) * 1000000 + tonumber(stamp[2])
local MINUTE, LONGEST, DAY = 60000000, 3660000000, 86400000000

local function exact(x) return string.format('%.0f', x) end

-- The level of a bucket by now; a bucket that is not there is full.
local function level(hash, name, size)
  local v = redis.call('HMGET', hash, name .. 'l', name .. 'a')
  local had, at = tonumber(v[1] or ''), tonumber(v[2] or '')
  if not had or not at then return size end
  if at > now then redis.call('HSET', hash, name .. 'a', exact(now)) end  -- the clock was set back
  return math.min(size, had + math.max(0, now - at) * size / MINUTE)
end

local function store(hash, name, size, value)
  redis.call('HSET', hash, name .. 'l', string.format('%.6f', value), name .. 'a', exact(now))
  return (size - value) * MINUTE / size
end

-- The start of the day's window and what was used in it.
local function day(hash)
  local v = redis.call('HMGET', hash, 'ds', 'du')
  local start, used = tonumber(v[1] or ''), tonumber(v[2] or '')
  if not start or not used or used == 0 or now - start >= DAY then return now, 0 end
  if start > now then
    start = now
    redis.call('HSET', hash, 'ds', exact(now))
  end
  return start, used
end

-- Keep a hash as long as it says anything: until its buckets are full and its day is over.
local function keep(hash, span)
  redis.call('PEXPIRE', hash, exact(math.ceil(span / 1000) + 1000))
end
"""

# KEYS: hash and set of the key, hash and set of the tenant.
# ARGV: lease, estimate, length of a lease, then per scope: requests, tokens, concurrent, tokens a day (-1: no
# limit). Returns {1, requests left, tokens left, start of the key's day, start of the tenant's}, or
# {0, scope, limit, wait}, with wait = -1 for never.
ADMIT: Final = (
    _COMMON
    + """
local lease, estimate, length = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local worst = nil
local function refuse(scope, limit, wait)
  if worst and (worst[4] == -1 or (wait ~= -1 and worst[4] >= wait)) then return end
  worst = {0, scope, limit, wait}
end

local seen = {}
for scope = 0, 1 do
  local hash, set = KEYS[1 + 2 * scope], KEYS[2 + 2 * scope]
  local base = 3 + 4 * scope
  local s = {requests = tonumber(ARGV[base + 1]), tokens = tonumber(ARGV[base + 2])}
  s.day = tonumber(ARGV[base + 4])
  local concurrent = tonumber(ARGV[base + 3])
  redis.call('ZREMRANGEBYSCORE', set, '-inf', exact(now))
  -- A lease that ends later than any can (they last an hour at most): the clock was set back.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, exact(now + LONGEST), '+inf')) do
    redis.call('ZADD', set, exact(now + length), id)
  end
  if concurrent >= 0 and redis.call('ZCARD', set) >= concurrent then refuse(scope, 2, 1000000) end
  if s.requests >= 0 then
    s.r = level(hash, 'r', s.requests)
    if s.r < 1 then refuse(scope, 0, math.ceil((1 - s.r) * MINUTE / s.requests)) end
  end
  if s.tokens >= 0 then
    s.t = level(hash, 't', s.tokens)
    if estimate > s.tokens then refuse(scope, 1, -1)
    elseif s.t < estimate then refuse(scope, 1, math.ceil((estimate - s.t) * MINUTE / s.tokens)) end
  end
  s.start, s.used = now, 0
  if s.day >= 0 then
    s.start, s.used = day(hash)
    if estimate > s.day then refuse(scope, 3, -1)
    elseif s.used + estimate > s.day then refuse(scope, 3, s.start + DAY - now) end
  end
  seen[scope] = s
end
if worst then return worst end

local requests, tokens = -1, -1
local function tighter(a, b)
  b = math.max(0, math.floor(b))
  if a < 0 then return b end
  return math.min(a, b)
end
for scope = 0, 1 do
  local hash, set, s, span = KEYS[1 + 2 * scope], KEYS[2 + 2 * scope], seen[scope], 0
  if s.requests >= 0 then
    span = math.max(span, store(hash, 'r', s.requests, s.r - 1))
    requests = tighter(requests, s.r - 1)
  else redis.call('HDEL', hash, 'rl', 'ra') end
  if s.tokens >= 0 then
    span = math.max(span, store(hash, 't', s.tokens, s.t - estimate))
    tokens = tighter(tokens, s.t - estimate)
  else redis.call('HDEL', hash, 'tl', 'ta') end
  if s.day >= 0 then
    redis.call('HSET', hash, 'ds', exact(s.start), 'du', exact(s.used + estimate))
    span = math.max(span, s.start + DAY - now)
  else redis.call('HDEL', hash, 'ds', 'du') end
  keep(hash, span)
  redis.call('ZADD', set, exact(now + length), lease)
  redis.call('PEXPIRE', set, exact(math.ceil(length / 500)))
end
return {1, requests, tokens, seen[0].start, seen[1].start}
"""
)

# KEYS as above. ARGV: lease, tokens used beyond the estimate, requests used beyond the one counted (-1: give it
# back), then per scope: requests, tokens, tokens a day (limits), start of the day of the reservation (-1: not
# known, this one). A lease settles once: a second time, or after it ended, nothing changes.
SETTLE: Final = (
    _COMMON
    + """
local lease, tokens, requests = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local done = 0
for scope = 0, 1 do
  local hash, set = KEYS[1 + 2 * scope], KEYS[2 + 2 * scope]
  local base, span = 3 + 4 * scope, 0
  if redis.call('ZREM', set, lease) == 1 then
    done = 1
    local size = tonumber(ARGV[base + 1])
    if size >= 0 then
      span = math.max(span, store(hash, 'r', size, math.min(size, level(hash, 'r', size) - requests)))
    end
    size = tonumber(ARGV[base + 2])
    if size >= 0 then
      span = math.max(span, store(hash, 't', size, math.min(size, level(hash, 't', size) - tokens)))
    end
    if tonumber(ARGV[base + 3]) >= 0 then
      local start, used = day(hash)
      local window = tonumber(ARGV[base + 4])
      if tokens > 0 or window == start or window == -1 then used = math.max(0, used + tokens) end
      redis.call('HSET', hash, 'ds', exact(start), 'du', exact(used))
      span = math.max(span, start + DAY - now)
    end
    keep(hash, span)
  end
end
return done
"""
)

# KEYS: set of the key, set of the tenant. ARGV: lease, length of a lease.
RENEW: Final = (
    _COMMON
    + """
for _, set in ipairs(KEYS) do
  redis.call('ZADD', set, 'XX', exact(now + tonumber(ARGV[2])), ARGV[1]) -- one that was settled meanwhile stays so
  redis.call('PEXPIRE', set, exact(math.ceil(tonumber(ARGV[2]) / 500)))
end
return 1
"""
)
