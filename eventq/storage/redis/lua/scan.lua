-- Events of a queue in a state, by id: {id, its fields, id, ...}. ARGV: queue, state, after ('' from the first), limit,
-- now.
--# include events needs places
local queue, state, after, limit, now = unpack(ARGV)
if promote(queue, tonumber(now)) then return 'AGAIN' end
local first = after == '' and '-' or '(' .. after
local found = {}
for n, id in ipairs(call('ZRANGEBYLEX', P .. 'ids:' .. state .. ':' .. queue, first, '+', 'LIMIT', 0, limit)) do
  found[2 * n - 1], found[2 * n] = id, call('HGETALL', P .. 'event:' .. id)
end
return found
