-- The notes of an event after a number: {number of the first one, {note, ...}}; empty if there are none.
-- ARGV: id, after.
local notes = KEYS[1] .. 'notes:' .. ARGV[1]
local last = tonumber(redis.call('HGET', KEYS[1] .. 'event:' .. ARGV[1], 'notes') or 0)
local after = tonumber(ARGV[2])
if after >= last then return {} end
local gone = last - redis.call('LLEN', notes)
local first = math.max(after, gone)
return {first + 1, redis.call('LRANGE', notes, first - gone, -1)}
