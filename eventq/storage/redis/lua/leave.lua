-- A worker is gone: 'released' (by its own will) gives back what it held, which counts nothing; 'crashed' takes it
-- back, if it still is as it was when it was judged: 1, or 0 if it lives.
-- ARGV: worker, the word, now; if it crashed: what was seen, run, joins and beat; '1' if it was its silence.
--# include events keys needs places ends
local worker, word, now = unpack(ARGV, 1, 3)
local hash, claims, slots = P .. 'worker:' .. worker, P .. 'claims:' .. worker, P .. 'slots:' .. worker
if word == 'crashed' then
  local is = call('HMGET', hash, 'run', 'joins', 'beat')
  if (is[1] or '') ~= ARGV[4] or (is[2] or '') ~= ARGV[5] or (is[3] or '') ~= ARGV[6] then return 0 end
  -- it may have come back between the look and this
  if ARGV[7] ~= '1' and call('PUBSUB', 'NUMSUB', P .. 'worker:' .. worker)[2] > 0 then return 0 end
end
for _, id in ipairs(call('HKEYS', claims)) do
  local event = event_of(id)
  if event and event.worker == worker then
    if word == 'crashed' then crash(event, now) else put_back(event, now, word) end
  end
end
for _, held in ipairs(call('SMEMBERS', slots)) do
  local number, name = string.match(held, '^(%S+) (.*)$')
  call('HDEL', P .. 'slot:' .. name, worker .. ':' .. number)
end
for _, queue in ipairs(call('SMEMBERS', P .. 'queues')) do call('SREM', P .. 'waiting:' .. queue, worker) end
stop_serving(worker)
call('ZREM', P .. 'workers', worker)
call('DEL', hash, claims, slots, P .. 'cancels:' .. worker, P .. 'serving:' .. worker, P .. 'receipts:' .. worker)
return 1
