-- The names of all queues.
return redis.call('SMEMBERS', KEYS[1] .. 'queues')
