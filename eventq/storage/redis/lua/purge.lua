-- Delete events of a state, so many at most: how many went; fewer than that were the last.
-- ARGV: receipt (four); queue, state, limit, now.
--# include receipts events keys needs places ends
local queue, state, limit, now = unpack(ARGV, 5, 8)
return once(function()
  if promote(queue, tonumber(now)) then return 'AGAIN' end
  local ids = call('ZRANGE', P .. 'ids:' .. state .. ':' .. queue, 0, limit - 1)
  for _, id in ipairs(ids) do
    local event = event_of(id)
    free_key(event)
    forget(event)
  end
  return #ids
end)
