/**
 * The journal of an episode (`who` is tenant/id): `au:<who>` is a list of its entries as JSON, written by the script that decides what they
 * tell. An entry's number is its place, counted with those that are gone (`cut`, kept with the episode).
 */
export function auditLua(kept: number): string {
  return `
local function audit(who, kind, at, data)
  if call('RPUSH', P .. 'au:' .. who, cjson.encode({ at = at, kind = kind, data = data })) <= ${kept} then return end
  call('LPOP', P .. 'au:' .. who)
  call('HINCRBY', P .. 'e:' .. who, 'cut', 1)
end
-- A run of denials by one budget is one entry.
local function auditDenial(who, data)
  local json = call('LINDEX', P .. 'au:' .. who, -1)
  local last = json and cjson.decode(json)
  if last and last.kind == 'deny' and last.data.scope == data.scope and last.data.id == data.id then
    data.count = data.count + last.data.count
    last.data = data
    call('LSET', P .. 'au:' .. who, -1, cjson.encode(last))
  else
    audit(who, 'deny', wall, data)
  end
end
`;
}
