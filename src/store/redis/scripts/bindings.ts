/** Sessions: `s` holds each binding as JSON, `used` their last uses, `st:<tenant>` the tenant's keys, `counts` how many an instance has. */
export function bindingsLua(mostBindings: number): string {
  return `
local function drop(key)
  local json = call('HGET', P .. 's', key)
  if not json then return end
  local b = cjson.decode(json)
  call('HDEL', P .. 's', key)
  call('ZREM', P .. 'used', key)
  call('SREM', P .. 'st:' .. b.tenant, key)
  if call('HINCRBY', P .. 'counts', b.instance, -1) <= 0 then call('HDEL', P .. 'counts', b.instance) end
end
local function dropOld()
  for _, key in ipairs(call('ZRANGEBYSCORE', P .. 'used', '-inf', now - A.ttl, 'LIMIT', 0, 1000)) do drop(key) end
end
local function binding(key)
  local used = call('ZSCORE', P .. 'used', key)
  if not used then return nil end
  if tonumber(used) <= now - A.ttl then drop(key) return nil end
  return cjson.decode(call('HGET', P .. 's', key))
end
-- Binds the session, moves it, or notes its use. Where it lives from now on: not where it was asked for, if another router bound it since
-- this one looked (boundTo).
local function bind(session)
  local key, known = session.key, binding(session.key)
  local instance = session.instance
  if known and known.instance ~= session.boundTo then instance = known.instance end
  if not known and call('ZCARD', P .. 'used') >= ${mostBindings} then drop(call('ZRANGE', P .. 'used', 0, 0)[1]) end
  if not known or known.instance ~= instance then
    if known then drop(key) end
    call('HINCRBY', P .. 'counts', instance, 1)
  end
  local b = { tenant = session.tenant, key = key, id = session.id, role = session.role, instance = instance, episodeId = session.episodeId, lastUsedAt = wall }
  call('HSET', P .. 's', key, cjson.encode(b))
  call('ZADD', P .. 'used', now, key)
  call('SADD', P .. 'st:' .. session.tenant, key)
  return b
end
`;
}
