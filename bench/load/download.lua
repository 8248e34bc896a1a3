-- GET requests for streams of `size` bytes, each cut from the origin's pattern at a place of its own.
-- Usage: wrk ... -s download.lua URL -- pattern=FILE size=N
--   pattern=FILE   what the origin repeats without end

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local PLACES = 16  -- as many different bodies: all 1,000 would not fit wrk's memory
local pattern, size

local function prepare()
  pattern, size = checks.read(checks.options.pattern), tonumber(checks.options.size)
end

local cut = {}

local function make(number, id)
  local from = (number % PLACES) * math.floor(#pattern / PLACES)
  cut[from] = cut[from] or pattern:rep(math.ceil((from + size) / #pattern)):sub(from + 1, from + size)
  local target = string.format("%s/stream/%d?from=%d&id=%s", checks.route(), size, from, checks.hex(12))
  return "GET " .. target .. " HTTP/1.1\r\n" .. checks.fields(id) .. "\r\n", cut[from]
end

checks.run(prepare, make)
