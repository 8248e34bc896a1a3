-- POST requests with a body each, to an origin that answers with the length and CRC-32 of what it received.
-- Usage: wrk ... -s post.lua URL -- bodies=FILE answers=FILE size=N
--   bodies=FILE    bodies of `size` bytes one after the other, sent in turn
--   answers=FILE   line n is what the origin answers to body n
--   type=TYPE      content type, application/octet-stream unless told

local checks = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "checks.lua")
local bodies, answers, size

local function prepare()
  bodies, answers = checks.read(checks.options.bodies), checks.lines(checks.options.answers)
  size = tonumber(checks.options.size)
end

local function make(number, id)
  local turn = (number - 1) % #answers
  local head = string.format("POST %s/v1/orders/%d?key=%s HTTP/1.1\r\n%sContent-Type: %s\r\n" ..
    "Content-Length: %d\r\n\r\n", checks.route(), math.random(1, 1000000), checks.hex(12), checks.fields(id),
    checks.options.type or "application/octet-stream", size)
  return head .. bodies:sub(turn * size + 1, (turn + 1) * size), answers[turn + 1]
end

checks.run(prepare, make)
