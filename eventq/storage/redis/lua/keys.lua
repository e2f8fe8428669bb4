-- Keys: `keys:<queue>` says which event holds one; `key_ends:<queue>` until when, if that is a matter of time.

local function forget_key(queue, key)
  call('HDEL', P .. 'keys:' .. queue, key)
  call('ZREM', P .. 'key_ends:' .. queue, key)
end

-- The id that holds a key; false if none does.
local function key_holder(queue, key, now)
  local ends = call('ZSCORE', P .. 'key_ends:' .. queue, key)
  if ends and tonumber(ends) <= now then
    forget_key(queue, key)
    return false
  end
  return call('HGET', P .. 'keys:' .. queue, key)
end

-- Give an event its key if it has one and that is free; `ends` is the instant for a key that is held for a time.
local function hold_key(event, now, ends)
  if not event.key or key_holder(event.queue, event.key, now) then return end
  call('HSET', P .. 'keys:' .. event.queue, event.key, event.id)
  if ends then
    call('ZADD', P .. 'key_ends:' .. event.queue, ends, event.key)
    call('ZADD', P .. 'lapses', 'LT', ends, event.queue)
  end
end

local function is_timed(event)
  return event.unique ~= 'open' and event.unique ~= 'waiting'
end

-- The event is open again, or came from another queue. Not the key of a debounced one, which the next put would end.
local function hold_key_again(event, now)
  if event.key and not event.since and not is_timed(event) then hold_key(event, now) end
end

-- Free an event's key, unless it is held for a time (whatever becomes of the event), or by another one.
local function free_key(event)
  if not event.key or is_timed(event) then return end
  if call('HGET', P .. 'keys:' .. event.queue, event.key) == event.id then forget_key(event.queue, event.key) end
end
