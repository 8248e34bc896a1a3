-- GET requests for static files of `size` bytes, each with its own content.
-- Usage: wrk ... -s files.lua URL -- pattern=FILE size=N files=N
--   pattern=FILE   what the files are cut from, one behind the other
--   files=N        /N/0 ... /N/(files-1) are requested

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local pattern, size, files
local cut = {}

local function prepare()
  pattern, size, files = checks.read(checks.options.pattern), tonumber(checks.options.size), tonumber(checks.options.files)
end

local function make(number, id)
  local file = number % files
  cut[file] = cut[file] or pattern:sub(file * size + 1, (file + 1) * size)
  local target = string.format("/%d/%d?v=%s", size, file, checks.hex(8))
  return "GET " .. target .. " HTTP/1.1\r\n" .. checks.fields(id) .. "\r\n", cut[file]
end

checks.run(prepare, make)
