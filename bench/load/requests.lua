-- GET requests of about 1 KB.
-- Usage: wrk ... -s requests.lua URL -- body=FILE [key=value ...]
--   body=FILE      what every answer must consist of
--   fields=FILE    instead of a random Authorization: line n of the file has the field lines of request n, in turn,
--                  with tabs between them

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local expected, field_lines

local function prepare()
  expected = checks.read(checks.options.body)
  field_lines = checks.options.fields and checks.lines(checks.options.fields) or {}
  for i, line in ipairs(field_lines) do field_lines[i] = line:gsub("\t", "\r\n") end
end

local function make(number, id)
  local target = string.format("%s/v1/items/%d/detail?page=%d&q=%s",
    checks.route(), math.random(1, 1000000), math.random(1, 50), checks.hex(math.random(6, 20)))
  local fields = checks.fields(id, field_lines[(number - 1) % #field_lines + 1])
  return "GET " .. target .. " HTTP/1.1\r\n" .. fields .. "\r\n", expected
end

checks.run(prepare, make)
