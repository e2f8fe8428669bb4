-- Take over a claim that has outlived its lease, if it still is the same without progress: 1, or 0.
-- ARGV: id, worker, token, notes, now.
--# include events keys needs places ends
local event = event_of(ARGV[1])
if not event or event.worker ~= ARGV[2] or event.token ~= ARGV[3] then return 0 end
if (call('HGET', P .. 'event:' .. ARGV[1], 'notes') or '') ~= ARGV[4] then return 0 end
crash(event, ARGV[5])
return 1
