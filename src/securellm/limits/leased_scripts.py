"""What Redis does for the limits that machines share, in Lua: one bucket or one count at a time, atomically. Pure.

Lua knows only doubles. All numbers are microseconds or counts within 0 .. 2^53 - 1, where doubles are exact, as
`_fast/gcra_py.py` says; remainders are taken by `fmod`, since Lua's own `%` divides and rounds. The time is Redis's, so
that the clocks of the machines do not matter. A script that arrives long after it was sent (from a socket's buffer,
when a server goes on after a halt) grants and gives back nothing: whoever sent it has given up.
"""

from typing import NamedTuple

from securellm.redis_link.commands import Script

LATE_US = 300_000  # several times what anybody waits for an answer

# step(tat, now, capacity, unit, need, ahead, hold, charge, returned) -> granted, leased, tat
#   returned   comes back from earlier grants            charge  is taken whatever the bucket holds
#   need       is used as soon as the answer is there    ahead   may be used until `hold` from now
# Both are granted as far as they fit, in whole units. What is leased ahead is booked at the end of its time, because it
# may be used then: so what is used in any window is never over the quota, however it was leased.
STEP = """
local MAX = 9007199254740991
local function clamp(value)
  if value < 0 then return 0 end
  if value > MAX then return MAX end
  return value
end
local function fit(base, now, capacity, unit, wanted)
  local room = math.min(capacity - (base - now), MAX - base, wanted)
  if room < unit then return 0 end
  return room - math.fmod(room, unit)
end
local function step(tat, now, capacity, unit, need, ahead, hold, charge, returned)
  tat = math.max(clamp(tat) - clamp(returned), 0)
  now, capacity = clamp(now), clamp(capacity)
  if charge > 0 then tat = clamp(math.max(tat, now) + clamp(charge)) end
  local granted, leased = 0, 0
  if need > 0 then
    local base = math.max(tat, now)
    granted = fit(base, now, capacity, unit, need)
    if granted > 0 then tat = base + granted end
  end
  if ahead > 0 and granted == need then
    local base = math.max(tat, clamp(now + hold))
    leased = fit(base, now, capacity, unit, ahead)
    if leased > 0 then tat = base + leased end
  end
  return granted, leased, tat
end
"""

REDIS_TIME = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
"""


class Scripts(NamedTuple):
    """The three of them; `scripts` makes them."""

    lease: Script
    places: Script
    members: Script


def scripts(now: str = REDIS_TIME) -> Scripts:
    """The scripts, with the Lua that sets `now`, in microseconds."""
    return Scripts(Script.of(STEP + now + _LEASE), Script.of(now + _PLACES), Script.of(now + _MEMBERS))


# KEYS bucket; ARGV capacity unit need ahead hold charge returned asked -> granted, leased, tat, now
# `asked` is what the time here is thought to have been when it was sent, 0 if nothing is known of it.
_LEASE = f"""
local number = {{}}
for place, text in ipairs(ARGV) do number[place] = tonumber(text) end
local capacity, unit, need, ahead, hold, charge, returned, asked = unpack(number)
if asked > 0 and now - asked > {LATE_US} then need, ahead, returned = 0, 0, 0 end
local tat = tonumber(redis.call('GET', KEYS[1]) or '0')
local granted, leased
granted, leased, tat = step(tat, now, capacity, unit, need, ahead, hold, charge, returned)
if tat > now then
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000) + 1))
else
  redis.call('DEL', KEYS[1])
end
return {{granted, leased, tat, now}}
"""

# KEYS count; ARGV member used wanted capacity lives_us asked -> held, held by others, now
# A member's places end by themselves when it does not say again that it has them. What is in use is never taken away.
_PLACES = f"""
local member, used, wanted, capacity = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lives, asked = tonumber(ARGV[5]), tonumber(ARGV[6])
local others, mine = 0, 0
local all = redis.call('HGETALL', KEYS[1])
for place = 1, #all, 2 do
  local held, ends = string.match(all[place + 1], '(%d+) (%d+)')
  if tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], all[place])
  elseif all[place] ~= member then
    others = others + tonumber(held)
  else
    mine = tonumber(held)
  end
end
if asked > 0 and now - asked > {LATE_US} then wanted = math.min(wanted, mine) end
local held = math.max(math.min(wanted, capacity - others), used)
if held > 0 then
  redis.call('HSET', KEYS[1], member, string.format('%.0f %.0f', held, now + lives))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(lives / 1000) + 1))
else
  redis.call('HDEL', KEYS[1], member)
end
return {{held, others, now}}
"""

# KEYS members; ARGV member lives_us -> how many members there are, this one included
_MEMBERS = """
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(tonumber(ARGV[2]) / 1000) + 1))
return redis.call('ZCARD', KEYS[1])
"""
