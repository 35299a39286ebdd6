/**
 * Episodes: the rules of src/core/episode.ts where the state is. `who` is tenant/id. `e:<who>` is the episode, `ev:<who>` its latest
 * events, `t:<tenant>` the tenant's ids, `active` those that run, `ended` the others by their end, `wake` all by the instant when they
 * can end or be forgotten at the earliest, `events` the stream that the routers read. `n` tells two episodes of one id apart; it names
 * their buckets, which go with them.
 */
export function episodesLua(mostEpisodes: number, eventsKept: number, streamKept: number): string {
  return `
local NUMBERS = { 'n', 'startedAt', 'startedWall', 'deadline', 'activeAt', 'extensions', 'running', 'seq', 'progressAt', 'endedAt' }
local function forgetAt(e) return e.endedAt + e.s.retainSeconds * 1000 end
local function ending(e)
  local s = e.s
  local idleAt = math.huge
  if s.idleTimeoutSeconds > 0 and e.running <= 0 then idleAt = e.activeAt + s.idleTimeoutSeconds * 1000 end
  if idleAt < e.deadline then return idleAt, 'idle' end
  return e.deadline, e.deadline < e.startedAt + s.maxTimeoutSeconds * 1000 and 'deadline' or 'max_deadline'
end
local function save(e)
  local h = { tenant = e.tenant, id = e.id, settings = e.settings, metadata = e.metadata, progress = e.progress, reason = e.reason }
  for _, f in ipairs(NUMBERS) do h[f] = e[f] end
  hset(P .. 'e:' .. e.who, h)
  call('ZADD', P .. 'wake', e.endedAt and forgetAt(e) or ending(e), e.who)
end
local function view(e)
  local b = e.n and call('HMGET', P .. 'b:e' .. e.n, 'spent', 'reserved') or {}
  return {
    tenant = e.tenant, id = e.id, settings = e.settings, metadata = e.metadata, startedAt = e.startedWall,
    remainingMs = e.reason and 0 or math.max(0, e.deadline - now), limitMs = e.deadline - e.startedAt, reason = e.reason, extensions = e.extensions,
    n = e.n, seq = e.seq, spent = tonumber(b[1] or 0), reserved = tonumber(b[2] or 0), progress = e.progress, progressAt = e.progressAt,
  }
end
local function emit(e, kind, data, at)
  e.seq = e.seq + 1
  local event = cjson.encode({ seq = e.seq, kind = kind, at = at, data = data, by = A.router })
  call('RPUSH', P .. 'ev:' .. e.who, event)
  call('LTRIM', P .. 'ev:' .. e.who, -${eventsKept}, -1)
  local number = call('HINCRBY', P .. 'meta', 'events', 1)
  call('XADD', P .. 'events', 'MAXLEN', '~', ${streamKept}, '*', 'number', number, 'event', event, 'episode', cjson.encode(view(e)))
end
local function finish(e, reason, at)
  e.reason, e.endedAt = reason, at
  call('SREM', P .. 'active', e.who)
  call('ZADD', P .. 'ended', at, e.who)
  local data = { reason = reason, tokens_used = view(e).spent }
  emit(e, 'ended', data, wall - (now - at))
  audit(e.who, (reason == 'finished' or reason == 'cancelled') and 'end' or 'expire', wall - (now - at), data)
  save(e)
end
local function forget(e)
  local buckets = call('SMEMBERS', P .. 'eb:' .. e.n)
  for _, key in ipairs(buckets) do call('DEL', key) end
  call('DEL', P .. 'e:' .. e.who, P .. 'ev:' .. e.who, P .. 'au:' .. e.who, P .. 'eb:' .. e.n)
  call('SREM', P .. 't:' .. e.tenant, e.id)
  call('SREM', P .. 'active', e.who)
  call('ZREM', P .. 'ended', e.who)
  call('ZREM', P .. 'wake', e.who)
end
local function load(who)
  local e = hgetall(P .. 'e:' .. who)
  if not e then return nil end
  e.who, e.s = who, cjson.decode(e.settings)
  for _, f in ipairs(NUMBERS) do e[f] = tonumber(e[f]) end
  return e
end
-- As it is now: one whose time has come has ended, one whose memory has run out is gone.
local function refresh(e)
  if not e.reason then
    local at, why = ending(e)
    if at <= now then finish(e, why, at) end
  end
  if e.reason and forgetAt(e) <= now then forget(e) return nil end
  return e
end
local function find(who)
  local e = load(who)
  return e and refresh(e)
end
-- A new one, not yet kept. Settings and metadata are JSON.
local function make(start)
  local s = cjson.decode(start.settings)
  return {
    who = start.tenant .. '/' .. start.id, tenant = start.tenant, id = start.id, settings = start.settings, metadata = start.metadata, s = s,
    startedAt = now, startedWall = wall, deadline = now + math.min(s.timeoutSeconds, s.maxTimeoutSeconds) * 1000, activeAt = now,
    extensions = 0, running = 0, seq = 0, progress = 'started', progressAt = wall,
  }
end
-- False: as many are active as may be kept. Above that bound the one that ended first is forgotten early.
local function makeRoom()
  if call('ZCARD', P .. 'wake') < ${mostEpisodes} then return true end
  local oldest = call('ZRANGE', P .. 'ended', 0, 0)[1]
  if not oldest then return false end
  forget(load(oldest))
  return true
end
local function add(e)
  e.n = call('HINCRBY', P .. 'meta', 'episodes', 1)
  hset(P .. 'b:e' .. e.n, { window = 0, spent = 0, reserved = 0 })
  call('SADD', P .. 'eb:' .. e.n, P .. 'b:e' .. e.n)
  call('SADD', P .. 't:' .. e.tenant, e.id)
  call('SADD', P .. 'active', e.who)
  local s = e.s
  local data = { timeout_s = s.timeoutSeconds, max_timeout_s = s.maxTimeoutSeconds, budget_tokens = s.budgetTokens > 0 and s.budgetTokens or nil }
  emit(e, 'started', data, wall)
  audit(e.who, 'start', wall, data)
  save(e)
end
local function touch(e) e.activeAt = math.max(e.activeAt, now) end
-- Near the deadline it moves the deadline, once per window: the moved one is outside of the window again.
local function progress(e, event, data)
  touch(e)
  e.progress, e.progressAt, data.event = event, wall, event
  local extendMs = e.s.progressExtendSeconds * 1000
  local moved = math.min(e.startedAt + e.s.maxTimeoutSeconds * 1000, e.deadline + extendMs)
  local extended = now >= e.deadline - extendMs and moved > e.deadline
  if extended then e.deadline, e.extensions = moved, e.extensions + 1 end
  emit(e, 'progress', data, wall)
  if extended then
    local moved = { extensions = e.extensions, time_remaining_s = (e.deadline - now) / 1000 }
    emit(e, 'extended', moved, wall)
    moved.cause = event
    audit(e.who, 'extend', wall, moved)
  end
  save(e)
end
`;
}
