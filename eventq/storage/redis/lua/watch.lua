-- Wait for events of a queue, or for the news of an event: how many are ready, or 1 if it is over or gone already.
-- ARGV: worker, 'queue' or 'event', its name.
local P, call = KEYS[1], redis.call
local worker, kind, name = unpack(ARGV)
if kind == 'queue' then
  call('SADD', P .. 'waiting:' .. name, worker)
  call('HSET', P .. 'queue:' .. name, 'waited', 1)
  return call('ZCARD', P .. 'ids:ready:' .. name)
end
local now = call('HMGET', P .. 'event:' .. name, 'state', 'watchers')
if not now[1] then return 1 end
local watchers = now[2] or ''
if not string.find(watchers, worker, 1, true) then
  call('HSET', P .. 'event:' .. name, 'watchers', watchers .. ' ' .. worker)
end
return (now[1] == 'ready' or now[1] == 'delayed' or now[1] == 'claimed') and 0 or 1
