-- GET requests of pages that a cache may answer: the headers of a browser, no credentials and no conditions.
-- Usage: wrk ... -s cached.lua URL -- body=FILE [key=value ...]
--   body=FILE      what every answer must consist of
--   below=PATH     the path that all URLs are below; one of the routes unless told
--   misses=1       every request has a URL of its own, also of all earlier runs, and no answer may be a hit

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local page, expected

local NEW = string.rep("0", 17)
local last = os.time() * 1e6  -- below 2^53, so that one more is exact; no run sends a million a second

local function with_new_url(text)
  last = last + 1
  local first, behind = text:find(NEW, 1, true)
  return text:sub(1, first - 1) .. string.format("%017d", last) .. text:sub(behind + 1)
end

local function is_miss(headers, body)
  local status = headers["Cache-Status"] or headers["cache-status"] or ""
  return body == page and not status:lower():find("hit", 1, true)
end

local function prepare()
  page = checks.read(checks.options.body)
  expected = page
  if checks.options.misses then checks.sent, expected = with_new_url, is_miss end
end

local function make(number, id)
  local fields = table.concat({
    "Host: api.example.com",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0."
      .. math.random(1000, 9999) .. ".0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0." .. math.random(1, 9),
    "Accept-Language: en-GB,en;q=0.9,de;q=0." .. math.random(1, 8),
    "Connection: keep-alive",
    "Referer: https://www.example.com/catalogue/" .. checks.hex(12) .. "/list?from=" .. math.random(1, 99999),
    "X-Request-Id: " .. id,
    "",
  }, "\r\n")
  local below = checks.options.below or checks.route() .. "/v1/items/"
  return "GET " .. below .. (checks.options.misses and NEW or number) .. " HTTP/1.1\r\n" .. fields .. "\r\n", expected
end

checks.run(prepare, make)
