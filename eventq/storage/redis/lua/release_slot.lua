-- Give up a slot. ARGV: name, worker, number of the slot at the worker.
local P, call = KEYS[1], redis.call
call('SREM', P .. 'slots:' .. ARGV[2], ARGV[3] .. ' ' .. ARGV[1])
return call('HDEL', P .. 'slot:' .. ARGV[1], ARGV[2] .. ':' .. ARGV[3])
