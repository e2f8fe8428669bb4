-- Where an event stands: `ids:<state>:<queue>` has all of a state by id; ready ones stand in a line besides, delayed
-- ones by due time, ended ones by the end.

-- Events that some workers skipped, or that need something, stand in a line of their own per group.
local function group_of(event)
  if not event.needs and not event.skippers then return nil end
  return (event.skippers or '') .. ' ' .. (event.needs or '')
end

local function line_of(queue, group)
  if not group then return P .. 'ready:' .. queue end
  return P .. 'line:' .. redis.sha1hex(group) .. ':' .. queue
end

local function member_of(event)
  return (event.place or string.sub(event.id, 1, 16)) .. event.id
end

local function count_waits(event, step)
  for _, limit in ipairs(needs_of(event.needs)[1]) do
    local waits = P .. 'waits:' .. limit[1]
    if call('HINCRBY', waits, event.queue, step) <= 0 then call('HDEL', waits, event.queue) end
  end
end

local function enter_line(event)
  local group = group_of(event)
  local line = line_of(event.queue, group)
  if group and call('HSETNX', P .. 'groups:' .. event.queue, line, group) == 1 then
    call('HINCRBY', P .. 'queue:' .. event.queue, 'groups', 1)
    count_waits(event, 1)
  end
  call('ZADD', line, -tonumber(event.priority or 0), member_of(event))
  if event.needs and event.expires then call('ZADD', P .. 'expiring:' .. event.queue, event.expires, event.id) end
end

local function leave_line(event)
  local group = group_of(event)
  local line = line_of(event.queue, group)
  call('ZREM', line, member_of(event))
  if not group then return end
  call('ZREM', P .. 'expiring:' .. event.queue, event.id)
  if call('EXISTS', line) == 0 and call('HDEL', P .. 'groups:' .. event.queue, line) == 1 then
    if call('HINCRBY', P .. 'queue:' .. event.queue, 'groups', -1) == 0 then
      call('HDEL', P .. 'queue:' .. event.queue, 'groups')
    end
    count_waits(event, -1)
  end
end

-- The event takes its place in a state; what else the event then says is the caller's to store.
local function enter(event, state)
  event.state = state
  call('HSET', P .. 'event:' .. event.id, 'state', state)
  call('ZADD', P .. 'ids:' .. state .. ':' .. event.queue, 0, event.id)
  if state == 'ready' then
    enter_line(event)
  elseif state == 'delayed' then
    call('ZADD', P .. 'due:' .. event.queue, event.due, event.id)
    call('HSET', P .. 'queue:' .. event.queue, 'delayed', 1)
  elseif state == 'completed' and event.keep then
    call('ZADD', P .. 'kept:' .. event.queue, exact(tonumber(event.settled) + tonumber(event.keep)), event.id)
  elseif state ~= 'claimed' then
    call('ZADD', P .. 'ended:' .. state .. ':' .. event.queue, event.settled, event.id)
  end
end

local function leave(event)
  local state = event.state
  call('ZREM', P .. 'ids:' .. state .. ':' .. event.queue, event.id)
  if state == 'ready' then
    leave_line(event)
  elseif state == 'delayed' then
    call('ZREM', P .. 'due:' .. event.queue, event.id)
  elseif state == 'completed' and event.keep then
    call('ZREM', P .. 'kept:' .. event.queue, event.id)
  elseif state ~= 'claimed' then
    call('ZREM', P .. 'ended:' .. state .. ':' .. event.queue, event.id)
  end
end

-- Make ready what has become due; each event pays for this once. True if that was only a step: then the caller answers
-- 'AGAIN', and is called again.
local function promote(queue, now)
  local due = call('ZRANGEBYSCORE', P .. 'due:' .. queue, '-inf', exact(now), 'LIMIT', 0, PROMOTE_STEP)
  for _, id in ipairs(due) do
    local event = event_of(id)
    leave(event)
    enter(event, 'ready')
  end
  return #due == PROMOTE_STEP
end
