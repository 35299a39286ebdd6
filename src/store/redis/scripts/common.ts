/**
 * What every script begins with. One script is one atomic step of the StateStore; all keys of a pool begin with KEYS[1], which holds a
 * hash tag, so they share one slot. ARGV[1] is the arguments as JSON (`A`). Commands of Redis 7.0 only.
 *
 * `now` decides (deadlines, leases) and `wall` is shown and opens windows: both are this server's clock. Only tests give others.
 * `A.run` is the server's run id that the router knows: another one means that the server was restarted or replaced, and nothing is
 * decided until the routers have said what they hold (the reassert script). `A.join` counts how often the router has said so: what comes late,
 * over a connection that it has given up, is not done any more.
 */
export const COMMON = `
local P, A, call = KEYS[1], cjson.decode(ARGV[1]), redis.call
local function clock() local t = call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
local now = A.now or clock()
local wall = A.wall or now
if A.run and (call('HGET', P .. 'meta', 'run') ~= A.run or tonumber(call('HGET', P .. 'joins', A.router)) ~= A.join) then
  return redis.error_reply('-REASSERT the store was restarted, or has given this router up')
end
local function hgetall(key)
  local flat = call('HGETALL', key)
  if #flat == 0 then return nil end
  local t = {}
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  return t
end
local function hset(key, t)
  local flat = {}
  for k, v in pairs(t) do flat[#flat + 1] = k; flat[#flat + 1] = v end
  call('HSET', key, unpack(flat))
end
`;
