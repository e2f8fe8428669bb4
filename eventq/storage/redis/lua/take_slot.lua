-- Take one of so many slots: 1, or 0 if all are held; 'JOIN' if the worker is not known. ARGV: name, limit, worker,
-- number of the slot at the worker.
local P, call = KEYS[1], redis.call
local slot, worker = P .. 'slot:' .. ARGV[1], ARGV[3]
local holder = worker .. ':' .. ARGV[4]
if call('EXISTS', P .. 'worker:' .. worker) == 0 then return 'JOIN' end
if call('HEXISTS', slot, holder) == 1 then return 1 end -- asked for again
if call('HLEN', slot) >= tonumber(ARGV[2]) then return 0 end
call('HSET', slot, holder, 1)
call('SADD', P .. 'slots:' .. worker, ARGV[4] .. ' ' .. ARGV[1])
return 1
