-- End a claim. Answers 1, or 0 if it is not held any more.
-- ARGV: id, worker, token, now; and unless it completed without a value: the state, the outcome's word,
-- '1' if it failed, failure ('' none), due ('' none), '1' if skipped, '1' if there is a value, value, its codec, how
-- long the event's own record is kept ('' as the queue says). KEYS[2] is there if it is asked for
-- again: the prefix, and the name of the store in which it was claimed.
local id, worker, token, state = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
if not state then -- the plain case: nobody watches it, and it holds nothing
  local call, hash = redis.call, KEYS[1] .. 'event:' .. id
  local now = call('HMGET', hash,
    'token', 'worker', 'queue', 'key', 'places', 'bounded', 'cancel', 'watchers', 'crashes', 'notes')
  if now[1] == token and now[2] == worker and
    not (now[4] or now[5] or now[6] or now[7] or now[8] or now[9]) then
    call('DEL', hash)
    if now[10] then call('DEL', KEYS[1] .. 'notes:' .. id) end
    call('ZREM', KEYS[1] .. 'ids:claimed:' .. now[3], id)
    call('HDEL', KEYS[1] .. 'claims:' .. worker, id)
    return 1
  end
end
--# include events keys needs places ends

local now, _, word, failed, failure, due, skipped, has_value, value, codec, keep = unpack(ARGV, 4, 14)
local event = event_of(id)
if not event or event.token ~= token or event.worker ~= worker then
  if not KEYS[2] then return 0 end
  -- it was settled by the call whose reply was lost, if that left its mark, or nothing at all: in the same store
  if not event then return KEYS[2] == P .. (call('GET', P .. 'store') or '') and 1 or 0 end
  return string.find(event.attempts or '', '{"call":' .. token .. ',"worker":"' .. worker .. '"', 1, true) and 1 or 0
end
if not state then
  finish(event, now, 'completed')
  return 1
end
local hash = P .. 'event:' .. id
-- a server without memory refuses a first write that adds, but none after one that takes away; so that comes first
leave(event)
call('ZADD', P .. 'ids:claimed:' .. event.queue, 0, id)
failure = failure ~= '' and failure or nil
if failed == '1' then call('HINCRBY', hash, 'failures', 1) end
if word == 'failed' then
  if failure then call('HSET', hash, 'failure', failure) else call('HDEL', hash, 'failure') end
end
if has_value == '1' then
  call('HSET', hash, 'value', value)
  if codec ~= 'json' then call('HSET', hash, 'value_codec', codec) end
  if keep == '' then call('HDEL', hash, 'keep') else call('HSET', hash, 'keep', keep) end
  event.value, event.keep = value, keep ~= '' and keep or nil
end
if state == 'ready' or state == 'delayed' then
  put_back(event, now, word, failure, due ~= '' and due or nil, skipped == '1' and worker or nil)
else
  finish(event, now, state, failure)
end
return 1
