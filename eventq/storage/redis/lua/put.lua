-- Store events without a key; all of them or none. Answers 1, 'full <maxsize>', or 'bytes <max_bytes>'.
-- ARGV: receipt (four); queue, stem of the ids, state, score ('' if they need something), how many fields, the fields
-- (names and values, the same for all), the payloads.

local P, call = KEYS[1], redis.call
local receipts, number = P .. 'receipts:' .. ARGV[1], ARGV[3] .. ' '
if KEYS[2] then
  local kept = call('HGET', receipts, ARGV[2])
  if kept and string.sub(kept, 1, #number) == number then return 1 end
end
local queue, stem, state, score = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local first = 10 + tonumber(ARGV[9])
local is = call('HMGET', P .. 'queue:' .. queue, 'made', 'waited', 'maxsize', 'max_bytes')
if is[3] then
  local waiting = call('ZCARD', P .. 'ids:ready:' .. queue) + call('ZCARD', P .. 'ids:delayed:' .. queue)
  if waiting + #ARGV - first + 1 > tonumber(is[3]) then return 'full ' .. is[3] end
end
if is[4] then
  for n = first, #ARGV do
    if #ARGV[n] > tonumber(is[4]) then return 'bytes ' .. is[4] end
  end
end
if not is[1] then -- the first put of this queue
  call('SADD', P .. 'queues', queue)
  call('HSET', P .. 'queue:' .. queue, 'made', 1)
end
call('HSET', receipts, ARGV[2], number)
if ARGV[4] ~= '' then call('EXPIRE', receipts, ARGV[4]) end

local ids, line, place = P .. 'ids:' .. state .. ':' .. queue, P .. 'ready:' .. queue, string.sub(stem, 1, 16)
if state == 'delayed' then
  line, place = P .. 'due:' .. queue, ''
  call('HSET', P .. 'queue:' .. queue, 'delayed', 1)
end
if score ~= '' and first == #ARGV and first == 10 then -- the plain case: one event that says nothing of itself
  local id = stem .. '.00000'
  call('HSET', P .. 'event:' .. id, 'queue', queue, 'state', state, 'payload', ARGV[10])
  call('ZADD', ids, '0', id) -- as text: a number would be formatted anew each time
  call('ZADD', line, score, place .. id)
elseif score ~= '' then -- places are filled in bulk, as many at a time as Lua can pass
  local id, hash, member, format = stem .. '.', P .. 'event:' .. stem .. '.', place .. stem .. '.', string.format
  local by_id, in_line, size = {}, {}, 0
  for n = first, #ARGV do
    local index = format('%05x', n - first)
    if first == 10 then
      call('HSET', hash .. index, 'queue', queue, 'state', state, 'payload', ARGV[n])
    else
      call('HSET', hash .. index, 'queue', queue, 'state', state, 'payload', ARGV[n], unpack(ARGV, 10, first - 1))
    end
    by_id[size + 1], by_id[size + 2], in_line[size + 1], in_line[size + 2] = '0', id .. index, score, member .. index
    size = size + 2
    if size == 2000 or n == #ARGV then
      call('ZADD', ids, unpack(by_id, 1, size))
      call('ZADD', line, unpack(in_line, 1, size))
      size = 0
    end
  end
end
if score ~= '' then
  while is[2] do
    local worker = call('SPOP', P .. 'waiting:' .. queue)
    if not worker then
      call('HDEL', P .. 'queue:' .. queue, 'waited')
      return 1
    end
    if call('PUBLISH', P .. 'worker:' .. worker, 'queue ' .. queue) > 0 then return 1 end
  end
  return 1
end

--# include events needs places
for n = first, #ARGV do
  local id = string.format('%s.%05x', stem, n - first)
  call('HSET', P .. 'event:' .. id, 'queue', queue, 'payload', ARGV[n], unpack(ARGV, 10, first - 1))
  enter(event_of(id), state)
end
ring(queue)
return 1
