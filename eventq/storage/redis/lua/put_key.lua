-- Store events unless their key is held. Answers {id, 1}, {holder, 0}, 'full <maxsize>' or 'bytes <max_bytes>'.
-- ARGV: receipt (four); now, queue, id of the first, key, unique, debounce, its longest ('' each without), the failure
-- of the event that it displaces, how many fields, the fields (names and values, the same for all), the payloads.
--# include receipts events keys needs places ends

local now_text, queue, id, key, unique, debounce, longest, displaced, fields = unpack(ARGV, 5, 13)
local now = tonumber(now_text)
local first = 14 + tonumber(fields) -- of the payloads

-- When a debounced event is due whose chain began at an instant.
local function due_of(since)
  local due = now + tonumber(debounce)
  return longest == '' and due or math.min(due, since + tonumber(longest))
end

local function store_one(id, payload, since)
  local hash = P .. 'event:' .. id
  call('HSET', hash, 'queue', queue, 'state', 'ready', 'payload', payload, 'key', key, 'unique', unique)
  if first > 14 then call('HSET', hash, unpack(ARGV, 14, first - 1)) end
  if since then
    local due = due_of(since) -- a chain whose time is over keeps its place from one put to the next
    call('HSET', hash, 'since', exact(since), 'due', exact(due), 'place', place_of(due))
  end
  local event = event_of(id)
  local waits = event.due and tonumber(event.due) > now
  if waits and not since then
    event.place = place_of(tonumber(event.due))
    call('HSET', hash, 'place', event.place)
  end
  enter(event, waits and 'delayed' or 'ready')
  hold_key(event, now, is_timed(event) and exact(now + tonumber(unique)) or nil) -- the first one does
end

local function store(since)
  make_queue(queue)
  local stem = string.sub(id, 1, -6)
  for n = first, #ARGV do
    store_one(string.format('%s%05x', stem, n - first), ARGV[n], since)
  end
  ring(queue)
end

return once(function()
  local bounds = call('HMGET', P .. 'queue:' .. queue, 'maxsize', 'max_bytes')
  for n = first, #ARGV do
    if bounds[2] and #ARGV[n] > tonumber(bounds[2]) then return 'bytes ' .. bounds[2] end
  end
  local holder = key_holder(queue, key, now)
  local earlier = holder and event_of(holder)
  -- only a debounced put displaces, and only another one that waits
  if holder and not (debounce ~= '' and earlier and earlier.since) then return {holder, 0} end
  if not holder and bounds[1] then
    local waiting = call('ZCARD', P .. 'ids:ready:' .. queue) + call('ZCARD', P .. 'ids:delayed:' .. queue)
    if waiting + #ARGV - first + 1 > tonumber(bounds[1]) then return 'full ' .. bounds[1] end
  end
  if debounce == '' then
    store(nil)
  elseif not earlier then
    store(now)
  else
    free_key(earlier)
    store(tonumber(earlier.since))
    finish(earlier, now_text, 'cancelled', displaced)
  end
  return {id, 1}
end)
