-- Remove a queue with everything in it, so many events at a time: 'more', 'done', or how many are claimed.
-- ARGV: queue, limit.
--# include events keys needs places ends
local queue, limit = ARGV[1], tonumber(ARGV[2])
local claimed = call('ZCARD', P .. 'ids:claimed:' .. queue)
if claimed > 0 then return claimed end
for _, state in ipairs({'ready', 'delayed', 'completed', 'dead', 'expired', 'cancelled'}) do
  local ids = call('ZRANGE', P .. 'ids:' .. state .. ':' .. queue, 0, limit - 1)
  for _, id in ipairs(ids) do
    local event = event_of(id)
    free_key(event)
    forget(event)
  end
  if #ids == limit then return 'more' end
end
call('SREM', P .. 'queues', queue)
call('SREM', P .. 'leased', queue)
call('ZREM', P .. 'lapses', queue)
call('DEL', P .. 'queue:' .. queue, P .. 'keys:' .. queue, P .. 'key_ends:' .. queue)
if call('EXISTS', P .. 'waiting:' .. queue) == 1 then call('HSET', P .. 'queue:' .. queue, 'waited', 1) end
return 'done'
