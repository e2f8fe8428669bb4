-- Give back claims that a worker does not know of: it never heard the reply, or the server has forgotten that they were
-- settled. ARGV: worker, now, then ids and tokens.
--# include events keys needs places ends
for n = 3, #ARGV, 2 do
  local event = event_of(ARGV[n])
  if event and event.worker == ARGV[1] and event.token == ARGV[n + 1] then
    put_back(event, ARGV[2], 'released')
  elseif not event or event.worker ~= ARGV[1] then
    call('HDEL', P .. 'claims:' .. ARGV[1], ARGV[n])
  end
end
return 1
