-- The records of names that begin with a prefix, sorted. ARGV: the prefix, the first text behind all of them.
local P, call = KEYS[1], redis.call
local first = ARGV[1] == '' and '-' or '[' .. ARGV[1]
local found = {}
for n, name in ipairs(call('ZRANGEBYLEX', P .. 'names:sorted', first, ARGV[2])) do
  found[n] = call('HGET', P .. 'names', name)
end
return found
