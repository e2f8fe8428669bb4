-- A change whose reply was lost is asked for again, and must then not happen twice: `receipts:<worker>` keeps, for each
-- connection of a worker, what the last change on it came to. Nobody renews it once the worker is gone.
-- ARGV: worker, connection, number of the change, for how many seconds to keep the receipts from now on (empty if
-- that was said lately). KEYS[2] is there if it is asked for again.

local function once(change)
  local receipts, number = KEYS[1] .. 'receipts:' .. ARGV[1], ARGV[3] .. ' '
  if KEYS[2] then
    local kept = redis.call('HGET', receipts, ARGV[2])
    if kept and string.sub(kept, 1, #number) == number then return cmsgpack.unpack(string.sub(kept, #number + 1)) end
  end
  local reply = change()
  if reply ~= 'AGAIN' then
    redis.call('HSET', receipts, ARGV[2], number .. cmsgpack.pack(reply))
    if ARGV[4] ~= '' then redis.call('EXPIRE', receipts, ARGV[4]) end
  end
  return reply
end
