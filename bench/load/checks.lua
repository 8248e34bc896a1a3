-- What the scripts for wrk share: different requests sent in turn, and every answer checked.
-- Options of all scripts: count=N requests, 1,000 unless told; routes=N, 100 unless told: they go to /svc0/ ... /svcN-1/;
-- close=1: every request asks for its connection to be closed, so each has one of its own.
--
-- An answer is right if it has status 200, or the one of the option status=N, exactly the body that its request calls for, and the X-Request-Id of a request
-- that is waiting for one (so answers that went to the wrong client are seen). A request without an answer is passed
-- over when its turn comes again, and lost after `TIMEOUT` turns: wrk itself would wait for it in silence. At the end
-- one line of JSON is printed.

local TIMEOUT = 10
local checks = {options = {count = "1000", routes = "100", status = "200"}}

function checks.hex(digits)
  local text = {}
  for i = 1, digits do text[i] = string.format("%x", math.random(0, 15)) end
  return table.concat(text)
end

function checks.read(file)
  local opened = assert(io.open(file, "rb"))
  local text = opened:read("*a")
  opened:close()
  return text
end

function checks.lines(file)
  local lines = {}
  for line in checks.read(file):gmatch("[^\n]+") do table.insert(lines, line) end
  return lines
end

-- The fields that a browser's application sends, all different; `authorization`: a whole line, random if nil.
function checks.fields(id, authorization)
  local hex = checks.hex
  return table.concat({
    "Host: api.example.com",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0."
      .. math.random(1000, 9999) .. ".0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0." .. math.random(1, 9),
    "Accept-Language: en-GB,en;q=0.9,de;q=0." .. math.random(1, 8),
    "Accept-Encoding: gzip, deflate, br, zstd;q=0." .. math.random(1, 9),
    "Connection: " .. (checks.options.close and "close" or "keep-alive"),
    "Cache-Control: max-age=" .. math.random(0, 600),
    "Referer: https://www.example.com/catalogue/" .. hex(12) .. "/list?from=" .. math.random(1, 99999),
    "X-Request-Id: " .. id,
    "X-Client-Version: web-" .. math.random(1, 20) .. "." .. math.random(0, 99),
    authorization or "Authorization: Bearer " .. hex(200 + math.random(0, 40)),
    "Cookie: session=" .. hex(48) .. "; theme=dark; _ga=GA1.2." .. math.random(1, 99999999) .. "."
      .. math.random(1, 999999999) .. "; csrftoken=" .. hex(32),
    "Traceparent: 00-" .. hex(32) .. "-" .. hex(16) .. "-01",
    "If-None-Match: W/\"" .. hex(16) .. "\"",
    "",
  }, "\r\n")
end

-- The first element of a path, one of the routes.
function checks.route() return "/svc" .. math.random(0, checks.options.routes - 1) end

-- These are globals because wrk reads a thread's globals by name (thread:get).
wrong_status, wrong_body, crossed, lost = 0, 0, 0, 0

local requests, expected, number_of, waiting = {}, {}, {}, {}
local turn = 0
local asked_once = false

-- Called with each request before it is sent; returns its text.
function checks.sent(text) return text end

-- `prepare()` is called once; then `make(number, id)` gives each request and the body that its answer must have, or a
-- function of its headers and its body that says whether it is right.
function checks.run(prepare, make)
  function init(args)
    math.randomseed(42)  -- the same requests for every contestant and round
    for _, argument in ipairs(args) do
      local key, value = argument:match("^(%w+)=(.*)$")
      checks.options[key] = value
    end
    prepare()
    for i = 1, checks.options.count do
      local id = checks.hex(8) .. "-" .. checks.hex(4) .. "-" .. checks.hex(4) .. "-" .. checks.hex(12)
      number_of[id] = i
      requests[i], expected[i] = make(i, id)
    end
  end
end

function request()
  if not asked_once then  -- before the run wrk asks for one request, to count those in it, and never sends it
    asked_once = true
    return requests[#requests]
  end
  repeat
    turn = turn % #requests + 1
    local passed_over = waiting[turn] and waiting[turn] + 1
    if passed_over == TIMEOUT then lost, passed_over = lost + 1, nil end
    waiting[turn] = passed_over
  until not passed_over
  waiting[turn] = 0
  return checks.sent(requests[turn])
end

function response(status, headers, body)
  if status ~= tonumber(checks.options.status) then wrong_status = wrong_status + 1 end
  local number = number_of[headers["X-Request-Id"] or headers["x-request-id"]]
  if number and waiting[number] then
    waiting[number] = nil
    local right = expected[number]
    if type(right) == "function" then right = right(headers, body) else right = body == right end
    if not right then wrong_body = wrong_body + 1 end
  else
    crossed = crossed + 1
  end
end

local threads = {}

function setup(thread) table.insert(threads, thread) end

function done(summary, latency)
  local function total(name)
    local sum = 0
    for _, thread in ipairs(threads) do sum = sum + thread:get(name) end
    return sum
  end
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,' ..
    '"figures":{"p50_us":%d,"p90_us":%d,"p99_us":%d,"p99.9_us":%d},' ..
    '"faults":{"wrong status":%d,"wrong body":%d,"answer to another request":%d,"lost":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"timeout":%d}}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9),
    total("wrong_status"), total("wrong_body"), total("crossed"), total("lost"),
    errors.connect, errors.read, errors.write, errors.timeout))
end

return checks
