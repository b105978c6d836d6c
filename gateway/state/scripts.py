"""
The Lua that moves meters atomically: the arithmetic of `gateway/admission/meters.py`, once more.

KEYS[1] is the sorted set of gateways by their last beat, the others are meters. ARGV begins with
this gateway's name, the seconds after which a silent gateway is dead, and the time after which the
script must do nothing, since its sender has given it up: a server that was stopped and goes on
finds such commands waiting. Then come six values for each meter: kind, limit, window_s, ends,
amount, and one that each script has its own use for. A HELD meter is a hash with each gateway's own
count, so that a dead gateway's counts no longer count. The server's clock is everyone's.
"""

_COMMON = """
local gateway, lease = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function exact(number) return string.format('%.17g', number) end

if now > tonumber(ARGV[3]) then return {} end

local function argument(index, offset) return ARGV[3 + (index - 1) * 6 + offset] end

local function number_of(key, kind)
  if kind ~= 'held' then return tonumber(redis.call('GET', key) or '0') end
  local sum, counts = 0, redis.call('HGETALL', key)
  for at = 1, #counts, 2 do
    local beat = redis.call('ZSCORE', KEYS[1], counts[at])
    if counts[at] == gateway or (beat and tonumber(beat) > now - lease) then
      sum = sum + tonumber(counts[at + 1])
    else
      redis.call('HDEL', key, counts[at])
    end
  end
  return sum
end

local function store(key, kind, number, ends)
  if kind == 'rate' then
    if number <= now then redis.call('DEL', key) return end
    redis.call('SET', key, exact(number), 'PX', math.ceil((number - now) * 1000) + 1000)
  else
    redis.call('SET', key, exact(number), 'PX', math.ceil(math.max(0, ends - now) * 1000) + 60000)
  end
end

local function move(index, amount)
  local key, kind = KEYS[index + 1], argument(index, 1)
  if kind == 'held' then
    local count = redis.call('HINCRBY', key, gateway, amount)
    if count <= 0 then redis.call('HDEL', key, gateway) end
  else
    local number = number_of(key, kind)
    if kind == 'rate' then
      local limit, window = tonumber(argument(index, 2)), tonumber(argument(index, 3))
      number = math.max(number, now) + amount * window / limit
    else
      number = math.max(0, number + amount)
    end
    store(key, kind, number, tonumber(argument(index, 4)))
  end
end
"""

TAKE = (
    _COMMON
    + """
local reply, granted, refused = {exact(now)}, {}, false
for index = 1, #KEYS - 1 do
  local kind, limit = argument(index, 1), tonumber(argument(index, 2))
  local amount, at_most = tonumber(argument(index, 5)), argument(index, 6) == '1'
  local number = number_of(KEYS[index + 1], kind)
  local used = number
  if kind == 'rate' then
    used = math.max(0, number - now) * limit / tonumber(argument(index, 3))
  end
  local room = limit - used
  if at_most then
    amount = math.min(amount, math.max(0, room))
  else
    local wanted = math.min(amount, limit)
    if room < wanted - 0.000001 * math.max(1, wanted) then refused = true end
  end
  granted[index] = amount
  reply[index + 1] = exact(number)
end
if not refused then
  for index = 1, #KEYS - 1 do
    if granted[index] ~= 0 then move(index, granted[index]) end
  end
end
return reply
"""
)
"""Answers with the time and each meter's number before it, from which `judge` says the same."""

GIVE = (
    _COMMON
    + """
for index = 1, #KEYS - 1 do move(index, tonumber(argument(index, 5))) end
return {exact(now)}
"""
)

BEAT = (
    _COMMON
    + """
-- What was taken before the data were lost, as the best informed gateway saw it; beside it stands
-- what each gateway took since, so the two must not be confused.
local function merge_seen(index, seen)
  local key, kind, ends = KEYS[index + 1], argument(index, 1), tonumber(argument(index, 4))
  local base = number_of(key .. ':seen', kind)
  if seen <= base then return end
  store(key .. ':seen', kind, seen, ends)
  local number = number_of(key, kind)
  if kind == 'rate' then
    number = math.max(number, now) + math.max(0, seen - math.max(base, now))
  else
    number = number + seen - base
  end
  store(key, kind, number, ends)
end

redis.call('ZADD', KEYS[1], now, gateway)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - lease)
local known, fresh = argument(1, 1), argument(1, 2)
redis.call('SET', KEYS[2], fresh, 'NX')
local data = redis.call('GET', KEYS[2])
local reply = {exact(now), redis.call('ZCARD', KEYS[1]), data}
local merge = argument(1, 3) == '1'
if data ~= known and not merge then return reply end
for index = 2, #KEYS - 1 do
  local key, kind = KEYS[index + 1], argument(index, 1)
  local amount, seen = tonumber(argument(index, 5)), tonumber(argument(index, 6))
  if kind == 'held' then
    if amount > 0 then redis.call('HSET', key, gateway, amount)
    else redis.call('HDEL', key, gateway) end
  else
    if merge then merge_seen(index, seen) end
    if amount ~= 0 then move(index, amount) end
  end
end
return reply
"""
)
"""This gateway lives, and knows what the server may not: its own counts of what is HELD, and
`amount` more of other meters. The first "meter" is the name of the server's data: where that is not
the name that this gateway knew, the server has lost them. Then nothing is done until a second beat
tells of everything, the sixth value being the number last seen: it is the least that is right."""
