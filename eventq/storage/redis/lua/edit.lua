-- Change events that are not claimed. Answers one word per event.
-- ARGV: receipt (four); now, the edit; then for 'cancel': '1' if only what was never started, the failure, and
-- the ids; for 'move': the queue, and the ids; for 'delete': the ids; for 'requeue': per event its id, its new place,
-- and the id that a completed one runs again under.
--# include receipts events keys needs places ends

local now, edit = ARGV[5], ARGV[6]

local function is_waiting(event)
  return event.state == 'ready' or event.state == 'delayed'
end

local function cancel(event, unstarted, failure)
  if unstarted == '1' and (event.attempts or not is_waiting(event)) then return 'too late' end
  if is_waiting(event) then
    finish(event, now, 'cancelled', failure)
    return 'cancelled'
  end
  if event.state ~= 'claimed' then return 'too late' end
  call('HSET', P .. 'event:' .. event.id, 'cancel', 1)
  call('SADD', P .. 'cancels:' .. event.worker, event.id)
  call('PUBLISH', P .. 'worker:' .. event.worker, 'cancel ' .. event.id)
  return 'requested'
end

local function move(event, queue)
  if not is_waiting(event) then return 'too late' end
  leave(event)
  free_key(event)
  event.queue = queue
  make_queue(queue)
  call('HSET', P .. 'event:' .. event.id, 'queue', queue)
  enter(event, event.state)
  hold_key_again(event, tonumber(now))
  ring(queue)
  return 'moved'
end

local function delete(event)
  if event.state == 'claimed' then return 'too late' end
  free_key(event)
  forget(event)
  return 'deleted'
end

-- A completed event runs again as a new one, with what it was put with; not its key, nor its times.
local function replay(event, id)
  local hash = P .. 'event:' .. id
  call('HSET', hash, 'queue', event.queue, 'state', 'ready')
  local names = {'payload', 'put', 'priority', 'max_crashes', 'keep', 'needs'}
  local values = call('HMGET', P .. 'event:' .. event.id, unpack(names))
  for n, name in ipairs(names) do
    if values[n] then call('HSET', hash, name, values[n]) end
  end
  enter(event_of(id), 'ready')
  ring(event.queue)
  return id
end

-- Ready at the end of its queue, as if new but for its id and its history.
local function requeue(event, place, id)
  if event.state == 'completed' then return replay(event, id) end
  if event.state == 'ready' or event.state == 'claimed' then return 'too late' end
  leave(event)
  local hash = P .. 'event:' .. event.id
  call('HDEL', hash, 'due', 'failure', 'settled', 'failures', 'crashes')
  if event.expires and tonumber(event.expires) <= tonumber(now) then
    call('HDEL', hash, 'expires')
    event.expires = nil
  end
  call('HSET', hash, 'place', place)
  event.place = place
  enter(event, 'ready')
  hold_key_again(event, tonumber(now))
  ring(event.queue)
  return event.id
end

return once(function()
  local words = {}
  local first, step = 7, 1
  if edit == 'cancel' then first = 9 elseif edit == 'move' then first = 8 elseif edit == 'requeue' then step = 3 end
  for n = first, #ARGV, step do
    local event = event_of(ARGV[n])
    if event and event.state == 'delayed' and tonumber(event.due) <= tonumber(now) then
      leave(event)
      enter(event, 'ready')
    end
    words[#words + 1] = not event and 'unknown'
      or edit == 'cancel' and cancel(event, ARGV[7], ARGV[8])
      or edit == 'move' and move(event, ARGV[7])
      or edit == 'requeue' and requeue(event, ARGV[n + 1], ARGV[n + 2])
      or delete(event)
  end
  return words
end)
