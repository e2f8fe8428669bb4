-- Change the record of a name, or free it, if it still is this one: 1, or 0 if not.
-- ARGV: receipt (four); name, its record, the one to be ('' to free it).
--# include receipts
return once(function()
  local P, call = KEYS[1], redis.call
  if call('HGET', P .. 'names', ARGV[5]) ~= ARGV[6] then return 0 end
  if ARGV[7] == '' then
    call('ZREM', P .. 'names:sorted', ARGV[5])
    call('HDEL', P .. 'names', ARGV[5])
  else
    call('HSET', P .. 'names', ARGV[5], ARGV[7])
  end
  return 1
end)
