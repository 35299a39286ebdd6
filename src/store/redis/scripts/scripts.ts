import { createHash } from "node:crypto";
import { AUDIT_KEPT, AUDIT_PAGE } from "../../../core/audit.ts";
import { MOST_BINDINGS } from "../../embedded/bindings.ts";
import { MOST_EPISODES } from "../../embedded/episodes.ts";
import { SETTLED_KEPT } from "../journal.ts";
import { auditLua } from "./audit.ts";
import { bindingsLua } from "./bindings.ts";
import { COMMON } from "./common.ts";
import { episodesLua } from "./episodes.ts";
import { ledgerLua, PLACE } from "./ledger.ts";

/** Events of one episode that can be read again. */
const EVENTS_KEPT = 256;
/** Events of all episodes that a router may be behind before it reads the episodes themselves. */
const STREAM_KEPT = 10_000;
/** Events in one answer of `tick`. */
export const TICK_EVENTS = 500;

/** How long a router that was given up is known to have been, in milliseconds. */
const GONE_KEPT_MS = 86_400_000;

/** More episodes than can begin between what a copy knows and what it should. */
const EPISODES_FORGOTTEN = 1_000_000;

export interface Script {
  text: string;
  /** What EVALSHA asks for. */
  sha: string;
}

const AUDIT = auditLua(AUDIT_KEPT);
const EPISODES = AUDIT + episodesLua(MOST_EPISODES, EVENTS_KEPT, STREAM_KEPT);
const LEDGER = ledgerLua(SETTLED_KEPT);
const BINDINGS = bindingsLua(MOST_BINDINGS);

function script(...parts: string[]): Script {
  const text = [COMMON, ...parts].join("");
  return { text, sha: createHash("sha1").update(text).digest("hex") };
}

/** One script per method. Answers are JSON; an error's first word is its kind. */
export const SCRIPTS = {
  admit: script(
    EPISODES,
    LEDGER,
    BINDINGS,
    PLACE,
    `
local known = hgetall(P .. 'r:' .. A.id)
if known then
  if known.tenant ~= A.tenant then return redis.error_reply('-IN_USE another caller has it') end
  if known.instance ~= A.instance then place(A.id) end
  local e = episodeOf(known)
  local limits = limitsOf(A.claims, A.tenant, e)
  return cjson.encode({ reserved = tonumber(known.tokens), instance = A.instance, budgets = budgetViews(limits), episode = e and view(e), hold = known })
end
local found = A.episode and find(A.tenant .. '/' .. A.episode.id)
if found and found.reason then return cjson.encode({ ended = view(found) }) end
local e = found or (A.episode and make(A.episode))
local limits = limitsOf(A.claims, A.tenant, e)
local tokens, tightest = fit(limits, A)
if not tokens then
  if found then
    local l = tightest
    auditDenial(e.who, { scope = l.scope, id = l.id, limit = l.limit, spent = l.spent, reserved = l.reserved, asked = A.worstCase, role = A.role, count = 1 })
  end
  return cjson.encode({ denied = budgetView(tightest) })
end
if e and not found and not makeRoom() then return redis.error_reply('-FULL too many are active') end
local bound = A.session and bind(A.session)
local instance = bound and bound.instance or A.instance
if e and not found then add(e) end
local r = #limits > 0 and { tenant = A.tenant, instance = instance, boot = instance == A.instance and A.boot or nil, tokens = tokens, router = A.router } or nil
if r then hold(limits, A.id, r, e) end
if e then
  e.running = e.running + 1
  touch(e)
  save(e)
  local session, from = A.session and A.session.id, A.session and A.session.boundTo
  audit(e.who, 'admit', wall, { request = A.id, role = A.role, session = session, instance = instance, reserved = tokens })
  if from and from ~= instance then
    audit(e.who, 'rebind', wall, { request = A.id, role = A.role, session = session, from = from, to = instance })
  end
end
return cjson.encode({ reserved = tokens, instance = instance, budgets = budgetViews(limits), episode = e and view(e), binding = bound, hold = r })
`,
  ),
  settle: script(
    EPISODES,
    LEDGER,
    `
return cjson.encode(settle(A))
`,
  ),
  startEpisode: script(
    EPISODES,
    `
local known = find(A.episode.tenant .. '/' .. A.episode.id)
if known then return cjson.encode({ known = view(known) }) end
if not makeRoom() then return redis.error_reply('-FULL too many are active') end
local e = make(A.episode)
add(e)
return cjson.encode({ episode = view(e) })
`,
  ),
  episode: script(EPISODES, "local e = find(A.who)\nreturn cjson.encode({ episode = e and view(e) })"),
  /** Those that are asked for, those of one tenant, or those that are active. */
  episodes: script(
    EPISODES,
    `
local list = {}
local whos = A.whos or A.tenant and call('SMEMBERS', P .. 't:' .. A.tenant) or call('SMEMBERS', P .. 'active')
for _, who in ipairs(whos) do
  local e = find(A.tenant and A.tenant .. '/' .. who or who)
  if e and (A.tenant or A.whos or not e.reason) then list[#list + 1] = view(e) end
end
return cjson.encode({ list = list })
`,
  ),
  /** Progress, or with `reason` the end; an end that was before stays. */
  changeEpisode: script(
    EPISODES,
    `
local e = find(A.who)
if not e then return '{}' end
if e.reason then return cjson.encode({ episode = view(e), before = true }) end
if A.reason then finish(e, A.reason, now) else progress(e, A.event, { detail = A.detail }) end
return cjson.encode({ episode = view(e) })
`,
  ),
  episodeEvents: script(
    EPISODES,
    `
local list = {}
local e = find(A.who)
if e then
  for _, json in ipairs(call('LRANGE', P .. 'ev:' .. A.who, 0, -1)) do
    local event = cjson.decode(json)
    if event.seq > A.after then list[#list + 1] = event end
  end
end
return cjson.encode({ list = list, episode = e and view(e) })
`,
  ),
  audit: script(
    EPISODES,
    `
local list, cut = {}, 0
if find(A.who) then
  cut = tonumber(call('HGET', P .. 'e:' .. A.who, 'cut') or 0)
  local from = math.max(0, A.after - cut)
  cut = cut + from
  list = call('LRANGE', P .. 'au:' .. A.who, from, from + ${AUDIT_PAGE} - 1)
end
return cjson.encode({ list = list, before = cut })
`,
  ),
  /** Of every router, or (`orphans`) those whose router is gone; in their order. */
  reservations: script(`
local list = {}
local function of(router)
  for _, id in ipairs(call('ZRANGE', P .. 'open:' .. router, 0, -1)) do
    local r = hgetall(P .. 'r:' .. id)
    list[#list + 1] = { id = id, tenant = r.tenant, instance = r.instance, tokens = tonumber(r.tokens), who = r.who, boot = r.boot, ageMs = wall - tonumber(r.at), order = tonumber(r.order) }
  end
end
of('')
if not A.orphans then for _, router in ipairs(call('ZRANGE', P .. 'routers', 0, -1)) do of(router) end end
table.sort(list, function(a, b) return a.order < b.order end)
return cjson.encode({ list = list })
`),
  binding: script(BINDINGS, "return cjson.encode({ binding = binding(A.key) })"),
  bindings: script(
    BINDINGS,
    `
dropOld()
local list = {}
local keys = call('SMEMBERS', P .. 'st:' .. A.tenant)
for _, key in ipairs(keys) do list[#list + 1] = binding(key) end
table.sort(list, function(a, b) return a.lastUsedAt < b.lastUsedAt or (a.lastUsedAt == b.lastUsedAt and a.key < b.key) end)
return cjson.encode({ list = list })
`,
  ),
  rebind: script(
    AUDIT,
    BINDINGS,
    PLACE,
    `
local r = hgetall(P .. 'r:' .. A.id)
if r then
  place(A.id)
  if r.who and r.instance ~= A.instance and call('HGET', P .. 'e:' .. r.who, 'n') == r.n then
    audit(r.who, 'rebind', wall, { request = A.id, session = A.session and A.session.id, from = r.instance, to = A.instance })
  end
end
if not A.session then return '{}' end
local known = binding(A.session.key)
A.session.boundTo = known and known.instance
return cjson.encode({ binding = bind(A.session) })
`,
  ),
  dropBinding: script(
    BINDINGS,
    `
local known = binding(A.key)
local mine = known ~= nil and known.tenant == A.tenant
if mine then drop(A.key) end
return cjson.encode({ dropped = mine })
`,
  ),
  sessionCounts: script("return cjson.encode({ counts = call('HGETALL', P .. 'counts') })"),
  budget: script(
    EPISODES,
    LEDGER,
    `
local e = A.claim.episodeId and find(A.tenant .. '/' .. A.claim.episodeId)
if A.claim.episodeId and not e then return '{}' end
local limits = limitsOf({ A.claim }, A.tenant, e)
return cjson.encode({ budget = budgetView(limits[#limits]) })
`,
  ),
  /**
   * What time has brought, several times a second from every router: leases are renewed, routers that are gone give up what they hold,
   * episodes end or are forgotten, sessions too; then the events after the last that this router saw, and when the next episode can end.
   */
  tick: script(
    EPISODES,
    LEDGER,
    BINDINGS,
    `
call('ZADD', P .. 'routers', now + A.leaseMs, A.router)
-- It has heard by now what it had to give up.
call('ZREM', P .. 'gone', A.router)
call('DEL', P .. 'late:' .. A.router)
for _, router in ipairs(call('ZRANGEBYSCORE', P .. 'routers', '-inf', now, 'LIMIT', 0, 8)) do
  -- Seen by one and the same for longer than the late one trusts itself, so that a step of this server's clock buries nobody.
  local late = P .. 'late:' .. router
  if A.timed and call('HINCRBY', late, A.router, 1) >= A.lateTicks then
    disownAll(router)
    call('ZREM', P .. 'routers', router)
    call('HDEL', P .. 'joins', router)
    call('DEL', late, P .. 'settled:' .. router)
    call('ZREMRANGEBYSCORE', P .. 'gone', '-inf', now - ${GONE_KEPT_MS})
    call('ZADD', P .. 'gone', now, router)
  end
end
for _, who in ipairs(call('ZRANGEBYSCORE', P .. 'wake', '-inf', now, 'LIMIT', 0, 500)) do find(who) end
for _, denial in ipairs(A.denials) do
  if find(denial.who) then auditDenial(denial.who, denial.data) end
end
dropOld()
local duty = call('HMGET', P .. 'meta', 'duty', 'dutyUntil')
local mine = duty[1] == A.router or not duty[1] or tonumber(duty[2]) <= now or not call('ZSCORE', P .. 'routers', duty[1])
if mine then hset(P .. 'meta', { duty = A.router, dutyUntil = now + A.dutyMs }) end
local list, last = {}, A.last
for _, entry in ipairs(call('XRANGE', P .. 'events', '(' .. A.last, '+', 'COUNT', ${TICK_EVENTS})) do
  local f = entry[2]
  last = entry[1]
  list[#list + 1] = { number = tonumber(f[2]), event = cjson.decode(f[4]), episode = cjson.decode(f[6]) }
end
local next = call('ZRANGE', P .. 'wake', 0, 0, 'WITHSCORES')[2]
return cjson.encode({ duty = mine, last = last, list = list, nextMs = next and tonumber(next) - now })
`,
  ),
  /**
   * A router is here, on a server that calls itself \`newRun\`, and says what it holds. After a restart of the server nothing is decided until
   * every router has done so, or its lease has run out: a copy that took over may not know their latest reservations, and brings them
   * back here, unless others were free to settle them. What the store has of this router and the router does not know is given up.
   */
  reassert: script(
    EPISODES,
    LEDGER,
    `
local meta = P .. 'meta'
if A.join < tonumber(call('HGET', P .. 'joins', A.router) or 0) then return redis.error_reply('-STALE it has joined again since') end
call('HSET', P .. 'joins', A.router, A.join)
local restore = A.restore and not call('ZSCORE', P .. 'gone', A.router)
local run = call('HGET', meta, 'run')
if run and run ~= A.newRun and call('HGET', meta, 'pending') ~= A.newRun then
  call('HSET', meta, 'pending', A.newRun)
  call('DEL', P .. 'asserted')
  for _, router in ipairs(call('ZRANGE', P .. 'routers', 0, -1)) do call('ZADD', P .. 'routers', now + A.leaseMs, router) end
end
call('ZADD', P .. 'routers', now + A.leaseMs, A.router)
call('SADD', P .. 'asserted', A.router)
local keep, settled = {}, {}
for _, id in ipairs(call('LRANGE', P .. 'settled:' .. A.router, 0, -1)) do settled[id] = true end
for _, h in ipairs(A.holds) do
  keep[h.id] = true
  if restore and not settled[h.id] and call('EXISTS', P .. 'r:' .. h.id) == 0 then
    local r = h.r
    local e = r.who and load(r.who)
    if e and e.n ~= tonumber(r.n) then e = nil end
    for _, charge in ipairs(cjson.decode(r.charges)) do
      local window = tonumber(call('HGET', charge[1], 'window') or 0)
      local ofEpisode = r.n and string.sub(charge[1], 1, #(P .. 'b:e' .. r.n)) == P .. 'b:e' .. r.n
      if e or not ofEpisode then
        if charge[2] > window then hset(charge[1], { window = charge[2], spent = 0, reserved = 0 }) end
        if charge[2] >= window then
          call('HSET', charge[1], 'window', charge[2])
          call('HINCRBY', charge[1], 'reserved', r.tokens)
        end
      end
    end
    r.order, r.router = call('HINCRBY', meta, 'reservations', 1), A.router
    hset(P .. 'r:' .. h.id, r)
    call('ZADD', P .. 'open:' .. A.router, r.order, h.id)
    if e then
      e.running = e.running + 1
      save(e)
      audit(e.who, 'admit', wall, { request = h.id, instance = r.instance, reserved = tonumber(r.tokens), restored = true })
    end
  end
  -- Settled before, and not as far as this server knows: in the same step, or it would count in full beside what took its place.
  if h.s and not settled[h.id] then
    h.s.id = h.id
    settle(h.s)
  end
end
disownAll(A.router, keep)
local done, othersMs = true, 0
if run ~= A.newRun then
  for _, router in ipairs(call('ZRANGEBYSCORE', P .. 'routers', '(' .. now, '+inf')) do
    if call('SISMEMBER', P .. 'asserted', router) == 0 then
      done = false
      othersMs = math.max(othersMs, call('ZSCORE', P .. 'routers', router) - now)
    end
  end
end
if done then
  if run ~= A.newRun then
    -- The numbers of episodes that this server has forgotten, which routers and reservations still know, are given to no other.
    local given = tonumber(call('HGET', meta, 'episodes') or 0)
    call('HSET', meta, 'episodes', math.max(given + ${EPISODES_FORGOTTEN}, math.floor(wall / 1000) * 1000))
  end
  call('HSET', meta, 'run', A.newRun)
  call('HDEL', meta, 'pending')
end
local last = call('XREVRANGE', P .. 'events', '+', '-', 'COUNT', 1)[1]
return cjson.encode({
  done = done, othersMs = othersMs, mine = call('ZRANGE', P .. 'open:' .. A.router, 0, -1), last = last and last[1] or '0-0', number = tonumber(call('HGET', meta, 'events') or 0),
})
`,
  ),
  /** What a router that goes leaves to the others. */
  leave: script(
    EPISODES,
    LEDGER,
    `
disownAll(A.router)
call('ZREM', P .. 'routers', A.router)
call('HDEL', P .. 'joins', A.router)
call('DEL', P .. 'late:' .. A.router, P .. 'settled:' .. A.router)
if call('HGET', P .. 'meta', 'duty') == A.router then call('HDEL', P .. 'meta', 'duty') end
return '{}'
`,
  ),
} as const;
