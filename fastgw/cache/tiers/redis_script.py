"""The script that a Redis tier calls: one atomic call reads, stores, removes or purges.

Keys: a hash with the purges of a store, then objects, each a hash that expires. Every purge has a number there, valid
for all nodes, and every object the number that was the last one when its fetch began; it is valid while no purge of its
tags, its URL or of everything has a higher one. So a purge reaches all nodes at once and walks no objects, and a fetch
that began before it cannot bring anything back.

The purges have an epoch, which objects name. It ends with the process of Redis (a copy of its data may lack the last
purges), when Redis has evicted them, and when they cannot be written: then all objects are misses, and none is wrong.

Fields of an object: e epoch, b number, d date of the fetch, t digests of tags and keys (16 bytes each), u URL, x sealed
record (`redis_values`), v body.
"""

from typing import Final

MOST_PREFIXES: Final = 32
"""Purged prefixes that are kept; when one has to be dropped, older objects are not valid."""
MOST_PURGES: Final = 50_000
"""Purged tags and keys that are kept; with more, older objects are not valid."""

SCRIPT: Final = (
    f"local MOST_PREFIXES, MOST_PURGES = {MOST_PREFIXES}, {MOST_PURGES}"
    + """
local purges, what, run = KEYS[1], ARGV[1], ARGV[2]
local held = redis.pcall('HMGET', purges, 'r', 'e', 'n', 'f', 'a', 'A', 'p')
if held.err or held[1] ~= run then
  redis.call('DEL', purges)
  held = {run, ARGV[3], '0', false, false, false, false}
  redis.pcall('HSET', purges, 'r', run, 'e', ARGV[3], 'n', '0') -- out of memory: the next call has another epoch
end
local epoch, number = held[2], tonumber(held[3])
local floor, all, all_soft = tonumber(held[4] or 0), tonumber(held[5] or 0), tonumber(held[6] or 0)
local is_readable, prefixes = pcall(cmsgpack.unpack, held[7] or cmsgpack.pack({}))
if not is_readable then
  redis.call('DEL', purges)
  return {ARGV[3], 0, 0}
end

local function judge(began, tags, url) -- false: purged; else 0, or 1: soft
  if began < floor or began < all then return false end
  local soft, names = began < all_soft, {}
  for at = 1, #tags, 16 do
    local tag = string.sub(tags, at, at + 15)
    names[#names + 1] = 't' .. tag
    names[#names + 1] = 'T' .. tag
  end
  local seen = #names > 0 and redis.call('HMGET', purges, unpack(names)) or {}
  for at = 1, #names, 2 do
    if seen[at] and began < tonumber(seen[at]) then return false end
    soft = soft or (seen[at + 1] and began < tonumber(seen[at + 1]))
  end
  for _, each in ipairs(prefixes) do
    if began < each[1] and string.sub(url, 1, #each[3]) == each[3] then
      if each[2] == 0 then return false end
      soft = true
    end
  end
  return soft and 1 or 0
end

if what == 'g' then
  for at = 2, #KEYS do
    local found = redis.pcall('HMGET', KEYS[at], 'e', 'b', 't', 'u', 'x')
    local is_whole = not found.err
    for field = 1, 5 do is_whole = is_whole and found[field] end
    if is_whole and found[1] == epoch and redis.call('HSTRLEN', KEYS[at], 'v') <= tonumber(ARGV[4]) then
      local began = tonumber(found[2]) or -1
      local soft = judge(began, found[3], found[4])
      if soft then
        local body = redis.call('HGET', KEYS[at], 'v') or ''
        return {epoch, number, at - 1, soft, found[3], found[4], found[5], body}
      end
      redis.call('DEL', KEYS[at])
    elseif found.err or found[1] then
      redis.call('DEL', KEYS[at])
    end
  end
elseif what == 's' and epoch == ARGV[4] then
  local began, tags, url, ttl, date = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8], ARGV[9]
  local former = ARGV[12] -- date of the object that it goes in the place of, or is not stored; nil: of any
  if judge(began, tags, url) then
    local there = redis.pcall('HMGET', KEYS[2], 'e', 'b', 'd')
    if there.err then redis.call('DEL', KEYS[2]) end
    local before, before_date = tonumber(there[2] or -1) or -1, tonumber(there[3] or 0) or 0
    local is_newer = there[1] == epoch and (before > began or before == began and before_date > tonumber(date))
    local is_gone = former and (there[1] ~= epoch or there[3] ~= former)
    if not is_newer and not is_gone then
      local done = redis.pcall('HSET', KEYS[2], 'e', epoch, 'b', ARGV[5], 'd', date, 't', tags, 'u', url,
        'x', ARGV[10], 'v', ARGV[11])
      if type(done) == 'number' then
        redis.call('PEXPIRE', KEYS[2], ttl)
        return {epoch, number, 1}
      end
      if not former then redis.call('DEL', KEYS[2]) end -- out of memory: an older one is not left
    end
  end
elseif what == 'd' then
  redis.call('DEL', KEYS[2])
elseif what == 'p' then -- triples: t tag, p prefix, a all; 1 for soft; value
  number = number + 1
  local fields = {'n', number}
  for at = 4, #ARGV, 3 do
    local kind, soft, value = ARGV[at], ARGV[at + 1] == '1', ARGV[at + 2]
    if kind == 't' then
      fields[#fields + 1] = (soft and 'T' or 't') .. value
      fields[#fields + 1] = number
    elseif kind == 'a' then
      fields[#fields + 1] = soft and 'A' or 'a'
      fields[#fields + 1] = number
    else
      local kept = {}
      for _, each in ipairs(prefixes) do
        if each[3] ~= value or (each[2] == 1) ~= soft then kept[#kept + 1] = each end
      end
      kept[#kept + 1] = {number, soft and 1 or 0, value}
      if #kept > MOST_PREFIXES then
        floor = math.max(floor, kept[1][1])
        table.remove(kept, 1)
      end
      prefixes = kept
    end
  end
  fields[#fields + 1] = 'f'
  fields[#fields + 1] = floor
  fields[#fields + 1] = 'p'
  fields[#fields + 1] = cmsgpack.pack(prefixes)
  if redis.call('HLEN', purges) + #fields / 2 > MOST_PURGES then
    redis.call('DEL', purges)
    fields = {'r', run, 'e', epoch, 'n', number, 'f', number}
  end
  if type(redis.pcall('HSET', purges, unpack(fields))) ~= 'number' then redis.call('DEL', purges) end
  return {epoch, number, 1}
end
return {epoch, number, 0}
"""
)
