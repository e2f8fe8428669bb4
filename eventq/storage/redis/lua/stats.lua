-- How many events of a queue stand where: {ready, delayed, claimed, completed, dead, expired, cancelled, the first
-- place of a ready one ('' if there is none)}. ARGV: queue, now.
--# include events needs places
local queue, now = unpack(ARGV)
if promote(queue, tonumber(now)) then return 'AGAIN' end
local found = {}
for n, state in ipairs({'ready', 'delayed', 'claimed', 'completed', 'dead', 'expired', 'cancelled'}) do
  found[n] = call('ZCARD', P .. 'ids:' .. state .. ':' .. queue)
end
local oldest = nil
local lines = call('HKEYS', P .. 'groups:' .. queue)
lines[#lines + 1] = P .. 'ready:' .. queue
for _, line in ipairs(lines) do -- within a priority the first one is the oldest; so one look for each of them
  local head = call('ZRANGE', line, 0, 0, 'WITHSCORES')
  while head[1] do
    local place = string.sub(head[1], 1, 16)
    if not oldest or place < oldest then oldest = place end
    head = call('ZRANGEBYSCORE', line, '(' .. head[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  end
end
found[8] = oldest or ''
return found
