-- Events, their waiters, and numbers. Every script that does more than the plain case begins with this part.
-- KEYS[1] is what all keys of the namespace begin with, `{eventq:shop}:`. LAYOUT.md tells what each key holds.

local P, call = KEYS[1], redis.call

local FIELDS = {
  'queue', 'state', 'priority', 'place', 'due', 'expires', 'key', 'unique', 'since', 'max_crashes', 'keep', 'needs',
  'skippers', 'failures', 'crashes', 'attempts', 'failure', 'settled', 'worker', 'token', 'started', 'cancel',
  'watchers', 'places', 'bounded', 'value'
}

-- An event as a table of what is decided on here; nil if there is none.
local function event_of(id)
  local values = call('HMGET', P .. 'event:' .. id, unpack(FIELDS))
  if not values[1] then return nil end
  local event = {id = id}
  for n = 1, #FIELDS do event[FIELDS[n]] = values[n] or nil end
  return event
end

-- A number as text from which the same number is read again.
local function exact(number)
  return string.format('%.17g', number)
end

-- An instant as the first 16 digits of an id show it. Lua has no integers that wide, so in two halves.
local function place_of(seconds)
  local nanoseconds = math.max(0, math.floor(seconds * 1e9))
  local high = math.floor(nanoseconds / 4294967296)
  return string.format('%08x%08x', high, nanoseconds - high * 4294967296)
end

local function settings_of(queue, ...)
  local names = {...}
  local values = call('HMGET', P .. 'queue:' .. queue, unpack(names))
  for n = 1, #names do values[n] = tonumber(values[n] or DEFAULTS[names[n]]) end
  return values
end

-- A queue is one as soon as something is put into it or said of it.
local function make_queue(queue)
  if call('SADD', P .. 'queues', queue) == 1 then call('HSET', P .. 'queue:' .. queue, 'made', 1) end
end

-- A worker's next claims, from whichever queue, are not the plain case: it is gone, or runs a suspect alone.
local function stop_serving(worker)
  for _, queue in ipairs(call('SMEMBERS', P .. 'serving:' .. worker)) do
    call('HDEL', P .. 'queue:' .. queue, 'serves ' .. worker)
  end
end

-- Tell one worker that waits for events of a queue, and take it off the list: busy workers are on none. Who does not
-- hear it (its connection was lost, or it died) is passed over; it asks again when it is back.
local function ring(queue)
  while true do
    local worker = call('SPOP', P .. 'waiting:' .. queue)
    if not worker then
      call('HDEL', P .. 'queue:' .. queue, 'waited')
      return
    end
    if call('PUBLISH', P .. 'worker:' .. worker, 'queue ' .. queue) > 0 then return end
  end
end

local function ring_everybody(queue)
  call('PUBLISH', P .. 'everybody', 'all ' .. queue)
end

-- Tell who watches an event of a note, or of its end.
local function ring_watchers(event)
  if not event.watchers then return end
  for worker in string.gmatch(event.watchers, '%x+') do
    call('PUBLISH', P .. 'worker:' .. worker, 'event ' .. event.id)
  end
end
