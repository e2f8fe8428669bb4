-- A worker is here, and listens; also when it is here again. Answers the name of the store, which goes with its data.
-- ARGV: worker, pid, host, since, the server's run, what it serves, a name for the store if it has none; then, each
-- after its kind, the queues that it has claimed from ('serving'), and what it waits for ('queue', 'event').
--# include events
local worker = ARGV[1]
local hash = P .. 'worker:' .. worker
call('ZADD', P .. 'workers', 0, worker)
call('HSET', hash, 'pid', ARGV[2], 'host', ARGV[3], 'since', ARGV[4], 'run', ARGV[5])
if ARGV[6] ~= '' then call('HSET', hash, 'introduction', ARGV[6]) end
call('HINCRBY', hash, 'joins', 1)
for n = 8, #ARGV, 2 do
  if ARGV[n] == 'serving' then
    call('SADD', P .. 'serving:' .. worker, ARGV[n + 1])
  elseif ARGV[n] == 'queue' then
    call('SADD', P .. 'waiting:' .. ARGV[n + 1], worker)
    call('HSET', P .. 'queue:' .. ARGV[n + 1], 'waited', 1)
  elseif call('EXISTS', P .. 'event:' .. ARGV[n + 1]) == 1 then
    local watchers = call('HGET', P .. 'event:' .. ARGV[n + 1], 'watchers') or ''
    if not string.find(watchers, worker, 1, true) then
      call('HSET', P .. 'event:' .. ARGV[n + 1], 'watchers', watchers .. ' ' .. worker)
    end
  end
end
call('SETNX', P .. 'store', ARGV[7])
return call('GET', P .. 'store')
