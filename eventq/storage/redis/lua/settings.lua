-- A queue's settings as JSON; nil if they are the defaults. ARGV: queue.
return redis.call('HGET', KEYS[1] .. 'queue:' .. ARGV[1], 'settings')
