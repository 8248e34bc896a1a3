-- The requests of `plain`; an answer is that of one upstream, or composed of three. Usage: as requests.lua, with
--   body=FILE      the answer of one upstream
--   composed=FILE  the answer that is composed of three of them

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local one, three

local function prepare()
  one, three = checks.read(checks.options.body), checks.read(checks.options.composed)
end

local function make(number, id)
  local is_right = function(headers, body) return body == one or body == three end
  return "GET " .. checks.route() .. "/v1/items/" .. number .. " HTTP/1.1\r\n" .. checks.fields(id) .. "\r\n", is_right
end

checks.run(prepare, make)
