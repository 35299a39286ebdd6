/**
 * Budgets and reservations: the rules of src/core/budget.ts where the numbers are. `b:<…>` is a bucket with its current window,
 * `r:<request>` an open reservation, `open:<router>` the requests of one router by their order, `open:` those whose router is gone.
 */
export function ledgerLua(settledKept: number): string {
  return `
local function openWindow(l)
  local v = call('HMGET', l.key, 'window', 'spent', 'reserved')
  l.window, l.spent, l.reserved = tonumber(v[1] or 0), tonumber(v[2] or 0), tonumber(v[3] or 0)
  local window = l.seconds > 0 and math.floor(wall / 1000 / l.seconds) or 0
  if window > l.window then l.window, l.spent, l.reserved, l.turned = window, 0, 0, true end
  return l
end
-- An episode that is not kept yet has no buckets: a name that nothing has.
local function limitOf(claim, tenant, e)
  local l = { scope = claim.scope, id = claim.id, limit = claim.limit, seconds = claim.windowSeconds or 0 }
  if e and claim.episodeId == e.id then
    l.seconds, l.suffix = 0, ':' .. claim.id
  else
    local owner = claim.scope == 'role' and tenant or ''
    l.key = P .. 'b:' .. claim.scope .. '/' .. owner .. '/' .. claim.id .. '/' .. l.seconds
  end
  return l
end
-- All limits that apply, the episode's own first.
local function limitsOf(claims, tenant, e)
  local limits = {}
  if e then limits[1] = { scope = 'episode', id = e.id, limit = e.s.budgetTokens, seconds = 0, suffix = '' } end
  for _, claim in ipairs(claims) do limits[#limits + 1] = limitOf(claim, tenant, e) end
  for _, l in ipairs(limits) do
    if l.suffix then l.key = P .. 'b:e' .. (e.n or 0) .. l.suffix end
    openWindow(l)
  end
  return limits
end
local function budgetView(l)
  return { scope = l.scope, id = l.id, limit = l.limit, spent = l.spent, reserved = l.reserved, seconds = l.seconds, window = l.window, wall = wall }
end
local function budgetViews(limits)
  local views = {}
  for _, l in ipairs(limits) do if l.limit > 0 then views[#views + 1] = budgetView(l) end end
  return views
end
-- Tokens to reserve, or nil and the limit that leaves least.
local function fit(limits, ask)
  local tightest, left = nil, math.huge
  for _, l in ipairs(limits) do
    local here = l.limit == 0 and math.huge or l.limit - l.spent - l.reserved
    if here < left then tightest, left = l, here end
  end
  local least = ask.clamp and math.min(ask.minimum, ask.worstCase) or ask.worstCase
  if tightest and not (left >= least) then return nil, tightest end
  return math.min(ask.worstCase, left)
end
local function hold(limits, id, r, e)
  local charges = {}
  for i, l in ipairs(limits) do
    if l.suffix then
      l.key = P .. 'b:e' .. e.n .. l.suffix
      call('SADD', P .. 'eb:' .. e.n, l.key)
    end
    if l.turned then hset(l.key, { spent = 0, reserved = 0 }) end
    call('HSET', l.key, 'window', l.window)
    l.reserved = call('HINCRBY', l.key, 'reserved', r.tokens)
    charges[i] = { l.key, l.window }
  end
  r.charges, r.at, r.order = cjson.encode(charges), wall, call('HINCRBY', P .. 'meta', 'reservations', 1)
  if e then r.who, r.n = e.who, e.n end
  hset(P .. 'r:' .. id, r)
  call('ZADD', P .. 'open:' .. r.router, r.order, id)
end
-- The episode of a reservation, unless it is forgotten.
local function episodeOf(r)
  local e = r.who and load(r.who)
  if e and e.n == tonumber(r.n) then return refresh(e) end
end
-- Its router is gone: it holds no episode open, and whoever can ask the instance settles it.
local function disown(id)
  local r = hgetall(P .. 'r:' .. id)
  if not r or r.router == '' then return end
  local e = episodeOf(r)
  if e then e.running = e.running - 1; save(e) end
  call('ZREM', P .. 'open:' .. r.router, id)
  call('ZADD', P .. 'open:', r.order, id)
  call('HSET', P .. 'r:' .. id, 'router', '')
end
local function disownAll(router, keep)
  for _, id in ipairs(call('ZRANGE', P .. 'open:' .. router, 0, -1)) do
    if not (keep and keep[id]) then disown(id) end
  end
end
-- Once: what is not open is settled already. Without \`used\` the whole reservation is spent.
local function settle(a)
  local r = hgetall(P .. 'r:' .. a.id)
  if not r then return {} end
  local owned = r.router ~= ''
  local e = episodeOf(r)
  local tokens = tonumber(r.tokens)
  local used = a.used or tokens
  call('DEL', P .. 'r:' .. a.id)
  call('ZREM', P .. 'open:' .. r.router, a.id)
  -- After a restart the router must not bring back what is settled, whether it has heard of that or not.
  call('LPUSH', P .. 'settled:' .. A.router, a.id)
  call('LTRIM', P .. 'settled:' .. A.router, 0, ${settledKept} - 1)
  for _, charge in ipairs(cjson.decode(r.charges)) do
    -- What was reserved in a window that is over counted there.
    if tonumber(call('HGET', charge[1], 'window') or -1) == charge[2] then
      call('HINCRBY', charge[1], 'reserved', -tokens)
      call('HINCRBY', charge[1], 'spent', used)
    end
  end
  if e then
    audit(e.who, 'settle', wall, {
      request = a.id, instance = r.instance, reserved = tokens, used = used,
      prompt = a.prompt, completion = a.completion, cached = a.cached, recovered = not owned or nil,
    })
    if owned then e.running = e.running - 1 end
    local live = owned and not e.reason
    if live then touch(e) end
    if live and (a.completion or 0) > 0 then progress(e, 'llm_response', { tokens = used, instance = r.instance }) else save(e) end
  end
  return { used = used, tokens = tokens, instance = r.instance }
end
`;
}

/** The reservation goes on to another instance. */
export const PLACE = `
local function place(id)
  call('HSET', P .. 'r:' .. id, 'instance', A.instance)
  if A.boot then call('HSET', P .. 'r:' .. id, 'boot', A.boot) else call('HDEL', P .. 'r:' .. id, 'boot') end
end
`;
