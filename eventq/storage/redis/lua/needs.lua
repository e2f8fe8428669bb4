-- What an event needs to be started. `needs` is JSON: limits as [name, places], rates as [name, number, seconds].

local decoded = {}
local function needs_of(text)
  if not text then return {{}, {}} end
  if not decoded[text] then decoded[text] = cjson.decode(text) end
  return decoded[text]
end

-- The first place of a name that nobody holds; `places` if none of so many is free.
local function free_place(name, places)
  local held = {}
  for _, place in ipairs(call('HKEYS', P .. 'limit:' .. name)) do held[tonumber(place)] = true end
  for place = 0, places - 1 do
    if not held[place] then return place end
  end
  return places
end

-- When a rate lets another event start. `rate:<name>` lists the last starts, in order.
local function free_at(name, number, seconds, now)
  local starts, at = P .. 'rate:' .. name, -1
  while true do
    local start = call('LINDEX', starts, at)
    if not start or tonumber(start) <= now then break end
    call('LSET', starts, at, exact(now)) -- the clock was set back: or it would count until the clock is there again
    at = at - 1
  end
  local start = call('LINDEX', starts, -number)
  return start and tonumber(start) + seconds or 0
end

local function may_start(needs, now)
  for _, limit in ipairs(needs[1]) do
    if free_place(limit[1], limit[2]) >= limit[2] then return false end
  end
  for _, rate in ipairs(needs[2]) do
    if free_at(rate[1], rate[2], rate[3], now) > now then return false end
  end
  return true
end

-- Take what an event needs; the places as text for its field `places`, nil if there are none.
local function take_needs(id, needs, now)
  local places = {}
  for n, limit in ipairs(needs[1]) do
    local place = free_place(limit[1], limit[2])
    call('HSET', P .. 'limit:' .. limit[1], place, id)
    places[n] = {limit[1], place}
  end
  for _, rate in ipairs(needs[2]) do
    call('RPUSH', P .. 'rate:' .. rate[1], exact(now))
    call('LTRIM', P .. 'rate:' .. rate[1], -MAX_PLACES, -1)
    call('ZADD', P .. 'rates', 'GT', exact(now + rate[3]), rate[1])
  end
  return #places > 0 and cjson.encode(places) or nil
end

-- The places are free, and whoever waits for them hears of it.
local function free_places(text)
  for _, held in ipairs(cjson.decode(text)) do
    call('HDEL', P .. 'limit:' .. held[1], held[2])
    for _, queue in ipairs(call('HKEYS', P .. 'waits:' .. held[1])) do ring(queue) end
  end
end
