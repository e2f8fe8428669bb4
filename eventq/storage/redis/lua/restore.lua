-- Store events as another store had them: how many are new. An id that is here already is left alone.
-- ARGV: receipt (four); now; then per event: id, queue, state, '1' if it holds its key, when that ends ('' with
-- the event), how many fields, the fields, how many notes, the notes.
--# include receipts events keys needs places ends
return once(function()
  local now, at, added = tonumber(ARGV[5]), 6, 0
  local claimable = {}
  while at <= #ARGV do
    local id, queue, state, holds, ends, width = unpack(ARGV, at, at + 5)
    local first = at + 6
    local notes = first + width
    at = notes + 1 + ARGV[notes]
    local hash = P .. 'event:' .. id
    if call('EXISTS', hash) == 0 then
      added = added + 1
      make_queue(queue)
      call('HSET', hash, 'queue', queue, unpack(ARGV, first, notes - 1))
      local bytes = 0
      for n = notes + 1, at - 1 do
        call('RPUSH', P .. 'notes:' .. id, ARGV[n])
        bytes = bytes + #ARGV[n] + NOTE_OVERHEAD
      end
      if bytes > 0 then call('HSET', hash, 'note_bytes', bytes) end
      local event = event_of(id)
      enter(event, state)
      if holds == '1' then hold_key(event, now, ends ~= '' and ends or nil) end
      if state == 'ready' then
        claimable[queue] = true
      elseif state ~= 'delayed' then
        call('ZADD', P .. 'lapses', 'LT', ARGV[5], queue)
      end
    end
  end
  for queue in pairs(claimable) do ring(queue) end
  return added
end)
