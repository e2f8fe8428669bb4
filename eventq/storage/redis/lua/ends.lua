-- How a claim ends, and an event; what retention gives up.

-- `attempts` is a line of JSON per attempt, the newest 20. `call` is the claim's token: who has lost the reply to its
-- settle finds its own ending by it.
local function remembered(event, now, word, failure)
  local line = '{"call":' .. event.token .. ',"worker":"' .. event.worker .. '","started":' .. event.started ..
    ',"ended":' .. now .. ',"outcome":"' .. word .. '"' .. (failure and ',"error":' .. failure or '') .. '}'
  if not event.attempts then return line end
  local lines = event.attempts .. '\n' .. line
  local _, breaks = string.gsub(lines, '\n', '\n')
  return breaks < ATTEMPTS_KEPT and lines or string.sub(lines, string.find(lines, '\n', 1, true) + 1)
end

-- The event does not run any more; nothing if it did not.
local function end_claim(event, now, word, failure)
  if not event.token then return end
  call('HDEL', P .. 'claims:' .. event.worker, event.id)
  if event.cancel then call('SREM', P .. 'cancels:' .. event.worker, event.id) end
  if tonumber(event.crashes or 0) >= SUSPECT_CRASHES then call('HDEL', P .. 'worker:' .. event.worker, 'alone') end
  event.attempts = remembered(event, now, word, failure)
  call('HSET', P .. 'event:' .. event.id, 'attempts', event.attempts)
  call('HDEL', P .. 'event:' .. event.id, 'worker', 'token', 'started', 'cancel', 'places', 'bounded')
  if event.places then free_places(event.places) end
  if event.bounded then ring(event.queue) end
  event.worker, event.token, event.started, event.cancel, event.places, event.bounded = nil
end

-- The event leaves without a trace.
local function forget(event)
  leave(event)
  call('DEL', P .. 'event:' .. event.id, P .. 'notes:' .. event.id)
  ring_watchers(event)
end

-- The event reaches a final state; its record stays if it is one to keep. `now` is text.
local function finish(event, now, state, failure)
  local keep, keep_dead, keep_count, keep_dead_count = unpack(
    settings_of(event.queue, 'keep', 'keep_dead', 'keep_count', 'keep_dead_count'), 1, 4)
  local stays, most = keep_dead, keep_dead_count
  if state == 'completed' then stays, most = event.value and tonumber(event.keep or keep) or 0, keep_count end
  leave(event)
  free_key(event)
  end_claim(event, now, state, failure)
  if stays <= 0 then
    call('DEL', P .. 'event:' .. event.id, P .. 'notes:' .. event.id)
    ring_watchers(event)
    return
  end
  event.settled = now
  local hash = P .. 'event:' .. event.id
  call('HSET', hash, 'settled', now)
  if state == 'completed' then
    call('HDEL', hash, 'failure')
  elseif failure then
    call('HSET', hash, 'failure', failure)
  end
  enter(event, state)
  local lapses = tonumber(now) + stays
  if most and not (state == 'completed' and event.keep) and
    call('ZCARD', P .. 'ended:' .. state .. ':' .. event.queue) > most then lapses = tonumber(now) end
  call('ZADD', P .. 'lapses', 'LT', exact(lapses), event.queue)
  ring_watchers(event)
end

-- A claim ends and the event is open again: at its old place, or after a delay.
local function put_back(event, now, word, failure, due, skipper)
  leave(event)
  end_claim(event, now, word, failure)
  local hash = P .. 'event:' .. event.id
  if skipper then
    local skippers = {skipper}
    for worker in string.gmatch(event.skippers or '', '%x+') do
      if worker ~= skipper then skippers[#skippers + 1] = worker end
    end
    table.sort(skippers)
    event.skippers = table.concat(skippers, ',')
    call('HSET', hash, 'skippers', event.skippers)
  end
  if due then
    event.due, event.place = due, place_of(tonumber(due))
    call('HSET', hash, 'due', due, 'place', event.place)
    return enter(event, 'delayed')
  end
  enter(event, 'ready')
  if skipper then ring_everybody(event.queue) else ring(event.queue) end
end

-- The holder died, or outlived its lease.
local function crash(event, now)
  event.crashes = call('HINCRBY', P .. 'event:' .. event.id, 'crashes', 1)
  put_back(event, now, 'crashed')
end

-- Why an event must not be started any more: its final state and the reason; nil if it may be.
local function verdict(now, expires, crashes, max_crashes)
  if expires and now >= tonumber(expires) then
    return 'expired', '{"type":"expired","message":"not started before its expiry"}'
  end
  if crashes >= max_crashes then
    return 'dead', string.format('{"type":"WorkerDied","message":"poison: %d workers died while they ran it ' ..
      '(max_crashes=%d)"}', crashes, max_crashes)
  end
end

-- Forget records of a queue that are not to be kept any longer, at most so many; how many went. Says in `lapses` when
-- to look again: at once if that was only a step.
local function prune(queue, now, most)
  local keep, keep_count, keep_dead, keep_dead_count = unpack(
    settings_of(queue, 'keep', 'keep_count', 'keep_dead', 'keep_dead_count'), 1, 4)
  local count, again = 0, math.huge
  local function give_up(ids)
    for _, id in ipairs(ids) do
      forget(event_of(id))
      count = count + 1
    end
  end
  local function head(key)
    return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or math.huge)
  end
  local function of_state(state, stays, bound, spared)
    local ended = P .. 'ended:' .. state .. ':' .. queue
    give_up(call('ZRANGEBYSCORE', ended, '-inf', exact(now - stays), 'LIMIT', 0, most - count))
    again = math.min(again, head(ended) + stays)
    local excess = bound and call('ZCARD', ended) - bound or 0
    if excess > 0 then
      local young = exact(now - spared)
      give_up(call('ZRANGEBYSCORE', ended, '-inf', young, 'LIMIT', 0, math.min(excess, most - count)))
      if call('ZCARD', ended) > bound then again = math.min(again, head(ended) + spared) end
    end
  end
  give_up(call('ZRANGEBYSCORE', P .. 'kept:' .. queue, '-inf', exact(now), 'LIMIT', 0, most))
  again = math.min(again, head(P .. 'kept:' .. queue))
  of_state('completed', keep, keep_count, COUNT_SPARES)
  for _, state in ipairs({'dead', 'expired', 'cancelled'}) do of_state(state, keep_dead, keep_dead_count, 0) end
  for _, key in ipairs(call('ZRANGEBYSCORE', P .. 'key_ends:' .. queue, '-inf', exact(now), 'LIMIT', 0, most)) do
    forget_key(queue, key)
  end
  again = math.min(again, head(P .. 'key_ends:' .. queue))
  if again == math.huge then
    call('ZREM', P .. 'lapses', queue)
  else
    call('ZADD', P .. 'lapses', exact(again), queue)
  end
  return count
end
