-- Wait no longer. ARGV: worker, 'queue' or 'event', its name.
local P, call = KEYS[1], redis.call
local worker, kind, name = unpack(ARGV)
if kind == 'queue' then
  call('SREM', P .. 'waiting:' .. name, worker)
  if call('EXISTS', P .. 'waiting:' .. name) == 0 then call('HDEL', P .. 'queue:' .. name, 'waited') end
  return 1
end
local watchers = call('HGET', P .. 'event:' .. name, 'watchers')
if not watchers then return 0 end
watchers = string.gsub(watchers, ' ' .. worker, '')
if watchers == '' then
  call('HDEL', P .. 'event:' .. name, 'watchers')
else
  call('HSET', P .. 'event:' .. name, 'watchers', watchers)
end
return 1
