-- GET requests for a document, in a content coding.
-- Usage: wrk ... -s documents.lua URL -- document=NAME file=FILE coding=CODING
--   document=NAME  the last part of the path
--   file=FILE      the document as it is
--   coding=CODING  what is accepted, and must come: identity, gzip, br or zstd
--
-- Of a coded body the beginning and the length are checked: what it decompresses to is checked before the run.

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local MAGIC = {gzip = "\31\139", zstd = "\40\181\47\253", br = ""}
local document, coding

local function is_right(headers, body)
  if coding == "identity" then return body == document end
  local magic = MAGIC[coding]
  return (headers["Content-Encoding"] or headers["content-encoding"]) == coding
    and body:sub(1, #magic) == magic and #body * 2 < #document
end

local function prepare()
  document, coding = checks.read(checks.options.file), checks.options.coding
end

local function make(number, id)
  local target = string.format("%s/v1/items/%d/%s?page=%d",
    checks.route(), math.random(1, 1000000), checks.options.document, math.random(1, 50))
  local fields = checks.fields(id):gsub("Accept%-Encoding: [^\r]*", "Accept-Encoding: " .. coding)
  return "GET " .. target .. " HTTP/1.1\r\n" .. fields .. "\r\n", is_right
end

checks.run(prepare, make)
