-- The records of names, in their order; false for one that is free. ARGV: the names, at least one.
return redis.call('HMGET', KEYS[1] .. 'names', unpack(ARGV))
