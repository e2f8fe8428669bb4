-- Look after the store: forget what retention gives up (in steps), make ready what is due, and tell the worker
--   {'1' if it is known here,
--    its claims (id, token, ...),
--    the ids of those that somebody wants cancelled,
--    other workers (id, run, joins, beat, how many listen on its channel, ...), at most WINDOW of them,
--    claims with a lease (queue, lease, {id, worker, token, notes, ...}, ...),
--    the next instant at which there is something to start, per queue that it claims from ('' if there is none)}.
-- ARGV: worker, now, then those queues.
--# include events keys needs places ends
local worker, now = ARGV[1], tonumber(ARGV[2])

-- Some of the others, those next after this one first, so that each is seen by several; all, if they are few.
local function others()
  local ids = call('ZRANGEBYLEX', P .. 'workers', '(' .. worker, '+', 'LIMIT', 0, WINDOW)
  if #ids < WINDOW then
    for _, id in ipairs(call('ZRANGEBYLEX', P .. 'workers', '-', '(' .. worker, 'LIMIT', 0, WINDOW - #ids)) do
      ids[#ids + 1] = id
    end
  end
  local found = {}
  for n, id in ipairs(ids) do
    local is = call('HMGET', P .. 'worker:' .. id, 'run', 'joins', 'beat')
    local listen = call('PUBSUB', 'NUMSUB', P .. 'worker:' .. id)[2]
    found[n] = {id, is[1] or '', is[2] or '', is[3] or '', listen}
  end
  return found
end

local function leased()
  local found = {}
  for n, queue in ipairs(call('SMEMBERS', P .. 'leased')) do
    local held = {}
    for at, id in ipairs(call('ZRANGE', P .. 'ids:claimed:' .. queue, 0, -1)) do
      local is = call('HMGET', P .. 'event:' .. id, 'worker', 'token', 'notes')
      held[at] = {id, is[1] or '', is[2] or '', is[3] or ''}
    end
    found[n] = {call('HGET', P .. 'queue:' .. queue, 'lease') or '', held}
  end
  return found
end

local function forget_old()
  local left = PRUNE_STEP
  for _, queue in ipairs(call('ZRANGEBYSCORE', P .. 'lapses', '-inf', ARGV[2], 'LIMIT', 0, 64)) do
    if left > 0 then left = left - prune(queue, now, left) end
  end
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'rates', '-inf', ARGV[2], 'LIMIT', 0, 64)) do
    call('DEL', P .. 'rate:' .. name)
    call('ZREM', P .. 'rates', name)
  end
end

-- When there is something to start in a queue that is not yet: a due event, or one that waits for a rate.
local function next_start(queue)
  if promote(queue, now) then return ARGV[2] end
  local paused = call('HMGET', P .. 'queue:' .. queue, 'paused', 'paused_until')
  if paused[1] and not (paused[2] and now >= tonumber(paused[2])) then return '' end
  local first = tonumber(call('ZRANGE', P .. 'due:' .. queue, 0, 0, 'WITHSCORES')[2] or math.huge)
  for _, group in ipairs(call('HVALS', P .. 'groups:' .. queue)) do
    local text = string.match(group, '^%S* (.*)$')
    local at = 0
    for _, rate in ipairs(needs_of(text ~= '' and text or nil)[2]) do
      at = math.max(at, free_at(rate[1], rate[2], rate[3], now))
    end
    if at > now then first = math.min(first, at) end
  end
  return first < math.huge and exact(first) or ''
end

forget_old()
local starts = {}
for n = 3, #ARGV do starts[n - 2] = next_start(ARGV[n]) end
return {
  call('EXISTS', P .. 'worker:' .. worker), call('HGETALL', P .. 'claims:' .. worker),
  call('SMEMBERS', P .. 'cancels:' .. worker), others(), leased(), starts
}
