-- Take a name for ever, unless somebody has it: {1 if it is this call's, the holder's record}.
-- ARGV: receipt (four); name, its record.
--# include receipts
return once(function()
  local P, call = KEYS[1], redis.call
  local taken = call('HSETNX', P .. 'names', ARGV[5], ARGV[6])
  if taken == 1 then call('ZADD', P .. 'names:sorted', 0, ARGV[5]) end
  return {taken, call('HGET', P .. 'names', ARGV[5])}
end)
