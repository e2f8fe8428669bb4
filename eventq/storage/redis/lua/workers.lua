-- The workers: {id, its fields, its claims, the queues it has claimed from, ...}.
local P, call = KEYS[1], redis.call
local found = {}
for n, id in ipairs(call('ZRANGE', P .. 'workers', 0, -1)) do
  found[n] = {
    id, call('HGETALL', P .. 'worker:' .. id), call('HKEYS', P .. 'claims:' .. id),
    call('SMEMBERS', P .. 'serving:' .. id)
  }
end
return found
