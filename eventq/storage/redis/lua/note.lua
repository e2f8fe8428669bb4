-- Append a note to a claimed event. Answers its number, or 0 if the claim is not held any more.
-- ARGV: receipt (four); id, worker, token, the note, its size.
--# include receipts

return once(function()
  local P, call = KEYS[1], redis.call
  local id, worker, token, note, size = unpack(ARGV, 5, 9)
  local hash, notes = P .. 'event:' .. id, P .. 'notes:' .. id
  local now = call('HMGET', hash, 'token', 'worker', 'watchers')
  if now[1] ~= token or now[2] ~= worker then return 0 end
  local number = call('HINCRBY', hash, 'notes', 1)
  local bytes = call('HINCRBY', hash, 'note_bytes', size)
  call('RPUSH', notes, note)
  while bytes > MAX_NOTES_BYTES do -- the oldest go
    bytes = call('HINCRBY', hash, 'note_bytes', -(#call('LPOP', notes) + NOTE_OVERHEAD))
  end
  for watcher in string.gmatch(now[3] or '', '%x+') do
    call('PUBLISH', P .. 'worker:' .. watcher, 'event ' .. id)
  end
  return number
end)
