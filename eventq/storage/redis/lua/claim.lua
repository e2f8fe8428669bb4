-- Start events of a queue. Answers a list with, for each event, its id and payload as one text; or a list of that and
-- another text, if more was said of it: the lines put, priority, failures, crashes, keep. Before them, if a suspect
-- waits for its turn, {its id}. One event of which no more was said is answered as its text alone, which is read in
-- half the time. 'JOIN' if the worker is not known here (any more).
-- ARGV: queue, worker, token, now, limit; and if there is something to say: '1' if the worker wants to hear of more
-- when there is less, and the id of a suspect that it met. KEYS[2] is there if it is asked for again.

local P, call = KEYS[1], redis.call
local queue, worker, token, now_text, limit, listens, suspect = unpack(ARGV)
local is = call('HMGET', P .. 'queue:' .. queue, 'serves ' .. worker, 'paused', 'concurrency', 'groups', 'delayed')
local is_plain = is[1] and not (is[2] or is[3] or is[4] or KEYS[2] or suspect or
  is[5] and call('ZRANGEBYSCORE', P .. 'due:' .. queue, '-inf', now_text, 'LIMIT', 0, 1)[1])

local function rest_of(values)
  if not (values[2] or values[3] or values[4] or values[5] or values[6]) then return false end
  return (values[2] or '') .. '\n' .. (values[3] or '') .. '\n' .. (values[4] or '') .. '\n' .. (values[5] or '') ..
    '\n' .. (values[6] or '')
end

local function wants_care(values)
  return values[5] or values[7] or values[8] or values[9] == 'waiting'
end

if is_plain and limit == '1' then -- the plain case: all events stand in one line, and the first one is wanted
  local line = P .. 'ready:' .. queue
  local head = call('ZPOPMIN', line)
  if head[1] then
    local id = string.sub(head[1], 17)
    local values = call('HMGET', P .. 'event:' .. id, 'payload', 'put', 'priority', 'failures', 'crashes', 'keep',
      'expires', 'max_crashes', 'unique')
    if not wants_care(values) then
      call('HSET', P .. 'event:' .. id, 'state', 'claimed', 'worker', worker, 'token', token, 'started', now_text)
      call('ZREM', P .. 'ids:ready:' .. queue, id)
      call('ZADD', P .. 'ids:claimed:' .. queue, '0', id)
      call('HSET', P .. 'claims:' .. worker, id, token)
      local rest = rest_of(values)
      return rest and {{id .. values[1], rest}} or id .. values[1]
    end
    call('ZADD', line, head[2], head[1]) -- it goes back
    is_plain = false
  end
end

local WANTED = {'payload', 'put', 'priority', 'failures', 'crashes', 'keep', 'expires', 'max_crashes', 'unique'}
local claims = P .. 'claims:' .. worker
local limit, wanted = tonumber(limit), tonumber(limit)
local reply, started = {}, 0
local claimed, unclaimed, tokens = {}, {}, {}

local function tell(id, values)
  local text, rest = id .. values[1], rest_of(values)
  reply[#reply + 1] = rest and {text, rest} or text
end

-- The event, which stands in no line any more, is this worker's; the indices follow in one go.
local function start(id, values)
  call('HSET', P .. 'event:' .. id, 'state', 'claimed', 'worker', worker, 'token', token, 'started', now_text)
  tell(id, values)
  started = started + 1
  unclaimed[started] = id
  claimed[2 * started - 1], claimed[2 * started] = '0', id
  tokens[2 * started - 1], tokens[2 * started] = id, token
end

-- The reply; a worker that found less than it wanted waits for more again.
local function answer()
  for n = 1, started, 2000 do -- as many as Lua can pass
    local last = math.min(n + 1999, started)
    call('ZREM', P .. 'ids:ready:' .. queue, unpack(unclaimed, n, last))
    call('ZADD', P .. 'ids:claimed:' .. queue, unpack(claimed, 2 * n - 1, 2 * last))
    call('HSET', claims, unpack(tokens, 2 * n - 1, 2 * last))
  end
  if listens == '1' and started < wanted then
    call('SADD', P .. 'waiting:' .. queue, worker)
    call('HSET', P .. 'queue:' .. queue, 'waited', 1)
  end
  return reply
end

while is_plain and started < limit do -- many at once, as far as nothing has to be known of them but that they are next
  local heads = call('ZPOPMIN', P .. 'ready:' .. queue, limit - started)
  if #heads == 0 then return answer() end
  for n = 1, #heads, 2 do
    local id = string.sub(heads[n], 17)
    local values = call('HMGET', P .. 'event:' .. id, unpack(WANTED))
    if wants_care(values) then -- it goes back, and the rest
      for rest = n, #heads, 2 do call('ZADD', P .. 'ready:' .. queue, heads[rest + 1], heads[rest]) end
      is_plain = false
      break
    end
    start(id, values)
  end
end
if is_plain then return answer() end

--# include events keys needs places ends

local now = tonumber(now_text)

if KEYS[2] then -- what the lost reply has said
  local held = call('HGETALL', claims)
  for n = 1, #held, 2 do
    if held[n + 1] == token then
      tell(held[n], call('HMGET', P .. 'event:' .. held[n], unpack(WANTED)))
    end
  end
  if #reply > 0 then return reply end
end
local known = call('HMGET', P .. 'worker:' .. worker, 'pid', 'alone')
if not known[1] then return 'JOIN' end
if known[2] then return answer() end
-- its next claims may be plain; a server without memory refuses this, and then they are not
if not is[1] and type(redis.pcall('SADD', P .. 'serving:' .. worker, queue)) == 'number' then
  redis.pcall('HSET', P .. 'queue:' .. queue, 'serves ' .. worker, 1)
end

local function wait(id)
  table.insert(reply, 1, {id})
end

if suspect and call('HLEN', claims) > 0 and call('HGET', P .. 'event:' .. suspect, 'state') == 'ready' then
  wait(suspect)
  return answer()
end
if promote(queue, now) then return 'AGAIN' end
if is[5] and call('EXISTS', P .. 'due:' .. queue) == 0 then call('HDEL', P .. 'queue:' .. queue, 'delayed') end
local paused, paused_until, concurrency, max_crashes = unpack(
  call('HMGET', P .. 'queue:' .. queue, 'paused', 'paused_until', 'concurrency', 'max_crashes'), 1, 4)
if paused and not (paused_until and now >= tonumber(paused_until)) then return answer() end
max_crashes = tonumber(max_crashes or DEFAULTS.max_crashes)
if concurrency then limit = math.min(limit, tonumber(concurrency) - call('ZCARD', P .. 'ids:claimed:' .. queue)) end

local function start_with(id, values, needs)
  if concurrency then call('HSET', P .. 'event:' .. id, 'bounded', 1) end
  if needs then
    local places = take_needs(id, needs, now)
    if places then call('HSET', P .. 'event:' .. id, 'places', places) end
  end
  if values[9] == 'waiting' then free_key(event_of(id)) end
  start(id, values)
end

-- What to do with the event that comes first: 'start', 'alone', 'end' (then it was settled), or 'wait'.
local function judge(id, values)
  local crashes = tonumber(values[5] or 0)
  local state, failure = verdict(now, values[7], crashes, tonumber(values[8] or max_crashes))
  if state then
    finish(event_of(id), now_text, state, failure)
    return 'end'
  end
  if crashes < SUSPECT_CRASHES or tonumber(values[8] or 0) >= FOR_EVER then return 'start' end
  if started > 0 or call('HLEN', claims) > 0 then
    wait(id)
    return 'wait'
  end
  call('HSET', P .. 'worker:' .. worker, 'alone', id)
  stop_serving(worker)
  return 'alone'
end

-- All events stand in one line: take as many as are wanted at once, and put back what cannot be started.
local function claim_plain()
  local line = P .. 'ready:' .. queue
  while started < limit do
    local heads = call('ZPOPMIN', line, limit - started)
    if #heads == 0 then return end
    for n = 1, #heads, 2 do
      local id = string.sub(heads[n], 17)
      local values = call('HMGET', P .. 'event:' .. id, unpack(WANTED))
      local word = judge(id, values)
      if word == 'start' or word == 'alone' then start_with(id, values) end
      if word == 'wait' or word == 'alone' then
        for rest = word == 'wait' and n or n + 2, #heads, 2 do call('ZADD', line, heads[rest + 1], heads[rest]) end
        return
      end
    end
  end
end

-- The first of all lines whose events may start here, and its needs.
local function first_of(lines)
  local best, needs
  for _, line in ipairs(lines) do
    local head = call('ZRANGE', line.key, 0, 0, 'WITHSCORES')
    if head[1] then
      local score = tonumber(head[2])
      if (not best or score < best.score or (score == best.score and head[1] < best.member)) and
        may_start(line.needs, now) then
        best = {score = score, member = head[1]}
        needs = line.needs
      end
    end
  end
  return best and string.sub(best.member, 17), needs
end

local function claim_by_groups(groups)
  local lines = {{key = P .. 'ready:' .. queue, needs = {{}, {}}}}
  for n = 1, #groups, 2 do
    local skippers, needs = string.match(groups[n + 1], '^(%S*) (.*)$')
    if not string.find(skippers, worker, 1, true) then
      lines[#lines + 1] = {key = groups[n], needs = needs_of(needs ~= '' and needs or nil)}
    end
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'expiring:' .. queue, '-inf', now_text)) do
    judge(id, call('HMGET', P .. 'event:' .. id, unpack(WANTED)))
  end
  while started < limit do
    local id, needs = first_of(lines)
    if not id then return end
    local values = call('HMGET', P .. 'event:' .. id, unpack(WANTED))
    local word = judge(id, values)
    if word == 'wait' then return end
    if word ~= 'end' then
      leave_line(event_of(id))
      start_with(id, values, needs)
    end
    if word == 'alone' then return end
  end
end

local groups = call('HGETALL', P .. 'groups:' .. queue)
if #groups == 0 then claim_plain() else claim_by_groups(groups) end
return answer()
