-- GET requests of pages that a cache may answer: the headers of a browser, no credentials and no conditions.
-- Usage: wrk ... -s cached.lua URL -- body=FILE [key=value ...]
--   body=FILE      what every answer must consist of
--   below=PATH     the path that all URLs are below; one of the routes unless told

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local expected

local function prepare() expected = checks.read(checks.options.body) end

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
  return "GET " .. below .. number .. " HTTP/1.1\r\n" .. fields .. "\r\n", expected
end

checks.run(prepare, make)
