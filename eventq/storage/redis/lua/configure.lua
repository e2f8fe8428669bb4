-- Store a queue's settings if they still are what they were read as: 1, or 0.
-- ARGV: queue, the settings as read (JSON, '' for none), as they are now, '1' if it has a lease, now, then those that
-- scripts decide by: names and values ('' takes one away).
--# include events
local queue, before, after, leased, now = unpack(ARGV)
local hash = P .. 'queue:' .. queue
local found = call('HGET', hash, 'settings') or ''
if found ~= before and found ~= after then return 0 end
make_queue(queue)
call('HSET', hash, 'settings', after)
for n = 6, #ARGV, 2 do
  if ARGV[n + 1] == '' then call('HDEL', hash, ARGV[n]) else call('HSET', hash, ARGV[n], ARGV[n + 1]) end
end
call(leased == '1' and 'SADD' or 'SREM', P .. 'leased', queue)
call('ZADD', P .. 'lapses', 'LT', now, queue) -- perhaps less is to be kept
ring_everybody(queue) -- perhaps it was resumed
return 1
