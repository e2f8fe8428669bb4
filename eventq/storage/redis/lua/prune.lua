-- Apply a queue's retention, to so many records at most: how many went.
-- ARGV: receipt (four); queue, limit, now.
--# include receipts events keys needs places ends
return once(function()
  return prune(ARGV[5], tonumber(ARGV[7]), tonumber(ARGV[6]))
end)
