-- A worker says what it serves: 1, or 0 if it is not known here (any more). ARGV: worker, what it says.
local hash = KEYS[1] .. 'worker:' .. ARGV[1]
if redis.call('EXISTS', hash) == 0 then return 0 end
redis.call('HSET', hash, 'introduction', ARGV[2])
return 1
