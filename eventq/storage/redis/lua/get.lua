-- All fields of an event. ARGV: id, now.
--# include events needs places
local event = event_of(ARGV[1])
if event and event.state == 'delayed' and tonumber(event.due) <= tonumber(ARGV[2]) then
  leave(event)
  enter(event, 'ready')
end
return call('HGETALL', P .. 'event:' .. ARGV[1])
