-- Free a name: 1, or 0 if it was not taken. ARGV: receipt (four); name.
--# include receipts
return once(function()
  redis.call('ZREM', KEYS[1] .. 'names:sorted', ARGV[5])
  return redis.call('HDEL', KEYS[1] .. 'names', ARGV[5])
end)
