-- A worker says that it lives: 1, or 0 if it is not known (any more). ARGV: worker.
local hash = KEYS[1] .. 'worker:' .. ARGV[1]
if redis.call('EXISTS', hash) == 0 then return 0 end
redis.call('HINCRBY', hash, 'beat', 1)
return 1
