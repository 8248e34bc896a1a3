-- Load for wrk: 1,000 different GET requests of about 1 KB, sent in turn, and every answer checked.
-- Usage: wrk ... -s requests.lua URL -- body=FILE [key=value ...]        prints one line of JSON at the end
--   body=FILE      what every answer must consist of
--   routes=N       requests go to /svc0/ ... /svcN-1/; 100 unless told
--   fields=FILE    instead of a random Authorization: line n of the file has the field lines of request n, in turn,
--                  with tabs between them
--   close=1        every request asks for its connection to be closed, so each has one of its own
--
-- An answer is right if it has status 200, exactly the origin's body, and the X-Request-Id of a request that is waiting
-- for one (so answers that went to the wrong client are seen). A request that has no answer after the other 999 have been
-- sent is lost: wrk itself would wait for it in silence.

local REQUESTS = 1000

local options = {routes = "100"}
local field_lines = {}

local function hex(digits)
  local text = {}
  for i = 1, digits do text[i] = string.format("%x", math.random(0, 15)) end
  return table.concat(text)
end

local function read(file)
  local opened = assert(io.open(file, "rb"))
  local text = opened:read("*a")
  opened:close()
  return text
end

local function make_request(number, id)
  local path = string.format("/svc%d/v1/items/%d/detail?page=%d&q=%s",
    math.random(0, options.routes - 1), math.random(1, 1000000), math.random(1, 50), hex(math.random(6, 20)))
  return table.concat({
    "GET " .. path .. " HTTP/1.1",
    "Host: api.example.com",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0."
      .. math.random(1000, 9999) .. ".0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0." .. math.random(1, 9),
    "Accept-Language: en-GB,en;q=0.9,de;q=0." .. math.random(1, 8),
    "Accept-Encoding: gzip, deflate, br, zstd;q=0." .. math.random(1, 9),
    "Connection: " .. (options.close and "close" or "keep-alive"),
    "Cache-Control: max-age=" .. math.random(0, 600),
    "Referer: https://www.example.com/catalogue/" .. hex(12) .. "/list?from=" .. math.random(1, 99999),
    "X-Request-Id: " .. id,
    "X-Client-Version: web-" .. math.random(1, 20) .. "." .. math.random(0, 99),
    field_lines[(number - 1) % #field_lines + 1] or "Authorization: Bearer " .. hex(200 + math.random(0, 40)),
    "Cookie: session=" .. hex(48) .. "; theme=dark; _ga=GA1.2." .. math.random(1, 99999999) .. "."
      .. math.random(1, 999999999) .. "; csrftoken=" .. hex(32),
    "Traceparent: 00-" .. hex(32) .. "-" .. hex(16) .. "-01",
    "If-None-Match: W/\"" .. hex(16) .. "\"",
    "", "",
  }, "\r\n")
end

-- These are globals because wrk reads a thread's globals by name (thread:get).
wrong_status, wrong_body, crossed, lost = 0, 0, 0, 0

local requests, number_of, waiting, expected_body = {}, {}, {}, nil
local turn = 0
local asked_once = false

function init(args)
  math.randomseed(42)  -- the same requests for every contestant and round
  for _, argument in ipairs(args) do
    local key, value = argument:match("^(%w+)=(.*)$")
    options[key] = value
  end
  expected_body = read(options.body)
  if options.fields then
    for line in read(options.fields):gmatch("[^\n]+") do table.insert(field_lines, (line:gsub("\t", "\r\n"))) end
  end
  for i = 1, REQUESTS do
    local id = hex(8) .. "-" .. hex(4) .. "-" .. hex(4) .. "-" .. hex(12)
    requests[i], number_of[id] = make_request(i, id), i
  end
end

function request()
  if not asked_once then  -- before the run wrk asks for one request, to count those in it, and never sends it
    asked_once = true
    return requests[REQUESTS]
  end
  turn = turn % REQUESTS + 1
  if waiting[turn] then lost = lost + 1 end
  waiting[turn] = true
  return requests[turn]
end

function response(status, headers, body)
  if status ~= 200 then wrong_status = wrong_status + 1 end
  if body ~= expected_body then wrong_body = wrong_body + 1 end
  local number = number_of[headers["X-Request-Id"] or headers["x-request-id"]]
  if number and waiting[number] then
    waiting[number] = nil
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
    '{"requests":%d,"seconds":%.6f,"figures":{"p50_us":%d,"p90_us":%d,"p99_us":%d,"p99.9_us":%d},"faults":{"wrong status":%d,"wrong body":%d,' ..
    '"answer to another request":%d,"lost":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9),
    total("wrong_status"), total("wrong_body"), total("crossed"), total("lost"),
    errors.connect, errors.read, errors.write, errors.timeout))
end
